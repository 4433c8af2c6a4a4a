import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.envelope import Envelope
from tasks.journal import Journal
from tasks.metrics import WorkerMetrics
from tasks.process import EngineProcess
from tasks.recovery import recover_jobs
from tasks.states import JobState
from tasks.supervisor import Supervisor

MakeEnvelope = Callable[..., Envelope]


@pytest.fixture
def recover(
    journal: Journal, supervisor: Supervisor, metrics: WorkerMetrics
) -> Callable[[], dict[str, float | None]]:
    """Give a function that recovers, waits for what was adopted and returns the counts."""

    def run() -> dict[str, float | None]:
        for thread in recover_jobs(journal, supervisor, metrics):
            thread.join()
        value = metrics.registry.get_sample_value
        return {
            kind: value("fleetsave_recoveries_total", {"kind": kind})
            for kind in ("adopted", "closed", "lost")
        }

    return run


def left_behind(
    journal: Journal, supervisor: Supervisor, envelope: Envelope, events: list[dict[str, Any]]
) -> Path:
    """Leave a job whose engine is gone and has written these events."""
    journal.claim(envelope)
    with subprocess.Popen(["true"]) as gone:
        pass
    journal.record_start(envelope.job_id, pid=gone.pid, start_ticks=1)
    folder = supervisor.jobs_folder / envelope.job_id
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_engine_that_ended_while_nobody_watched_closes_with_its_last_line(
    journal: Journal,
    supervisor: Supervisor,
    make_envelope: MakeEnvelope,
    recover: Callable[[], dict[str, float]],
) -> None:
    """Its steps are taken over too."""
    envelope = make_envelope()
    events = [{"event": "step", "step": "commit"}, {"event": "result", "result": {"bytes": 7}}]
    folder = left_behind(journal, supervisor, envelope, events)
    assert recover() == {"adopted": 0, "closed": 1, "lost": 0}
    entry = journal.find(envelope.job_id)
    assert entry is not None
    assert entry.state is JobState.SUCCEEDED
    assert not folder.exists()


def test_engine_that_died_silently_is_lost_with_its_last_words(
    journal: Journal,
    supervisor: Supervisor,
    make_envelope: MakeEnvelope,
    recover: Callable[[], dict[str, float]],
) -> None:
    """Nobody can say what became of it, and that is said."""
    envelope = make_envelope()
    folder = left_behind(journal, supervisor, envelope, [{"event": "step", "step": "stream"}])
    (folder / "stderr.log").write_text("MemoryError\n")
    assert recover() == {"adopted": 0, "closed": 0, "lost": 1}
    entry = journal.find(envelope.job_id)
    assert entry is not None
    assert entry.state is JobState.LOST
    assert "MemoryError" in str(entry.reason)


def test_job_that_was_claimed_and_never_started_is_lost_without_harm(
    journal: Journal, make_envelope: MakeEnvelope, recover: Callable[[], dict[str, float]]
) -> None:
    """The engine was told nothing."""
    envelope = make_envelope()
    journal.claim(envelope)
    assert recover() == {"adopted": 0, "closed": 0, "lost": 1}
    assert "guest was not touched" in str(getattr(journal.find(envelope.job_id), "reason", ""))


def test_pid_given_to_another_process_is_not_adopted(
    journal: Journal, make_envelope: MakeEnvelope, recover: Callable[[], dict[str, float]]
) -> None:
    """This test's own process has the pid, but started at another time."""
    envelope = make_envelope()
    journal.claim(envelope)
    journal.record_start(envelope.job_id, pid=os.getpid(), start_ticks=1)
    assert recover()["lost"] == 1


def test_living_engine_is_adopted_where_its_worker_left_off(
    journal: Journal,
    supervisor: Supervisor,
    metrics: WorkerMetrics,
    make_envelope: MakeEnvelope,
    tmp_path: Path,
) -> None:
    """What the worker before took over is not taken over again."""
    envelope = make_envelope()
    journal.claim(envelope)
    folder = supervisor.jobs_folder / envelope.job_id
    folder.mkdir(parents=True)
    old = json.dumps({"event": "step", "step": "old"}) + "\n"
    code = f"""
import sys, time, pathlib
sys.stdin.read()
sys.stdout.write({old!r}); sys.stdout.flush()
while not pathlib.Path({str(tmp_path / "go")!r}).exists(): time.sleep(0.01)
print('{{"event": "step", "step": "new"}}')
print('{{"event": "result", "result": {{}}}}', flush=True)
"""
    process = EngineProcess.start(
        (sys.executable, "-c", code),
        "",
        folder=folder,
        environment=dict(os.environ),
        on_started=lambda pid, ticks: journal.record_start(envelope.job_id, pid=pid, start_ticks=ticks),
    )
    journal.record_state(envelope.job_id, JobState.COMMITTING, read_offset=len(old))
    [thread] = recover_jobs(journal, supervisor, metrics)
    (tmp_path / "go").touch()
    thread.join()
    process.describe_exit()
    process.close()
    assert metrics.registry.get_sample_value("fleetsave_recoveries_total", {"kind": "adopted"}) == 1
    bodies = [json.loads(entry.body)["body"] for entry in journal.list_unsent(100)]
    assert [body["step"] for body in bodies if "step" in body] == ["new"]
    assert bodies[-1]["state"] == "succeeded"


def test_folders_of_no_job_are_removed(
    supervisor: Supervisor, recover: Callable[[], dict[str, float]]
) -> None:
    """A crash between the end of a job and the removal leaves nothing for long."""
    (supervisor.jobs_folder / "orphan").mkdir(parents=True)
    recover()
    assert list(supervisor.jobs_folder.iterdir()) == []
