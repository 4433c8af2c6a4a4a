import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import recover as engine_recover
from engine.recover import Recovery
from engine.store.staging import lock_directory
from tasks.config import HostSettings
from tasks.envelope import Envelope
from tasks.host_flags import HostFlags
from tasks.journal import Journal
from tasks.journal_entry import JournalEntry
from tasks.leftovers import Leftovers
from tasks.metrics import WorkerMetrics
from tasks.process import EngineProcess
from tasks.recovery import recover_jobs
from tasks.slots import Slots
from tasks.states import JobState
from tasks.supervisor import Supervisor
from tests.data.dead_engine import leave_image, publish_image

MakeEnvelope = Callable[..., Envelope]


@pytest.fixture
def resumed() -> list[JournalEntry]:
    """Give the jobs that were to be gone on with."""
    return []


@pytest.fixture
def around(flags: HostFlags, slots: Slots, resumed: list[JournalEntry]) -> dict[str, Any]:
    """Give what recovery has to do with besides."""
    return {"flags": flags, "slots": slots, "resume": resumed.append}


@pytest.fixture
def recover(
    journal: Journal,
    supervisor: Supervisor,
    metrics: WorkerMetrics,
    leftovers: Leftovers,
    around: dict[str, Any],
) -> Callable[[], dict[str, float | None]]:
    """Give a function that recovers, waits for what was adopted and returns the counts."""

    def run() -> dict[str, float | None]:
        for thread in recover_jobs(journal, supervisor, metrics, leftovers, **around):
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


def test_job_that_was_claimed_and_never_started_is_gone_on_with(
    journal: Journal,
    supervisor: Supervisor,
    make_envelope: MakeEnvelope,
    recover: Callable[[], dict[str, float]],
    resumed: list[JournalEntry],
) -> None:
    """No engine was told anything; the folder of one that was never told is out of the way."""
    envelope = make_envelope()
    journal.claim(envelope)
    (supervisor.jobs_folder / envelope.job_id).mkdir(parents=True)
    assert recover() == {"adopted": 1, "closed": 0, "lost": 0}
    assert [entry.job_id for entry in resumed] == [envelope.job_id]
    assert list(supervisor.jobs_folder.iterdir()) == []


def test_pid_given_to_another_process_is_not_adopted(
    journal: Journal, make_envelope: MakeEnvelope, recover: Callable[[], dict[str, float]]
) -> None:
    """This test's own process has the pid, but started at another time."""
    envelope = make_envelope()
    journal.claim(envelope)
    journal.record_start(envelope.job_id, pid=os.getpid(), start_ticks=1)
    assert recover()["lost"] == 1


def test_living_engine_is_adopted_where_its_worker_left_off(  # noqa: PLR0917
    journal: Journal,
    supervisor: Supervisor,
    metrics: WorkerMetrics,
    leftovers: Leftovers,
    make_envelope: MakeEnvelope,
    tmp_path: Path,
    around: dict[str, Any],
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
    [thread] = recover_jobs(journal, supervisor, metrics, leftovers, **around)
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


STREAMING = [{"event": "step", "step": "stream"}]
COMMITTING = [{"event": "step", "step": "commit"}]


def end_of(journal: Journal, envelope: Envelope) -> tuple[JobState, dict[str, Any]]:
    """Return the job's state and the body of its last event."""
    entry = journal.find(envelope.job_id)
    assert entry is not None
    bodies = [json.loads(told.body)["body"] for told in journal.list_unsent(1000)]
    return entry.state, bodies[-1]


@pytest.fixture
def store(settings: HostSettings) -> Path:
    """Give the host's store, empty."""
    assert settings.store is not None
    settings.store.mkdir()
    return settings.store


@pytest.mark.parametrize("is_point", [True, False])
def test_only_copy_of_a_guest_is_published_and_its_job_has_succeeded(  # noqa: PLR0917
    journal: Journal,
    supervisor: Supervisor,
    make_envelope: MakeEnvelope,
    recover: Callable[[], dict[str, float]],
    store: Path,
    metrics: WorkerMetrics,
    is_point: bool,
) -> None:
    """The result is made from the manifest, whatever the engine could not say any more."""
    to = None if is_point else store / "a.save"
    envelope = make_envelope(params={} if to is None else {"to": str(to)})
    left_behind(journal, supervisor, envelope, COMMITTING)
    staging = leave_image(store, envelope.job_id, to=to)

    assert recover() == {"adopted": 0, "closed": 1, "lost": 0}

    state, body = end_of(journal, envelope)
    assert state is JobState.SUCCEEDED
    result = body["result"]
    assert (result["job_id"], result["bytes"], result["checksum"]["algorithm"]) == (
        envelope.job_id, 3, "blake3",
    )  # fmt: skip
    image = Path(result["path"])
    assert (image / "memory.save" if is_point else image).read_bytes() == b"abc"
    assert not staging.exists()
    assert metrics.registry.get_sample_value("fleetsave_recoveries_total", {"kind": "published"}) == 1


def test_image_that_somebody_else_has_published_counts(
    journal: Journal,
    supervisor: Supervisor,
    make_envelope: MakeEnvelope,
    recover: Callable[[], dict[str, float]],
    store: Path,
) -> None:
    """The engine itself before its last line, or `fleetsave doctor` after its death."""
    envelope = make_envelope(params={"to": str(store / "a.save")})
    left_behind(journal, supervisor, envelope, COMMITTING)
    publish_image(store / "a.save", envelope.job_id)

    recover()

    assert end_of(journal, envelope)[0] is JobState.SUCCEEDED


def test_unfinished_image_is_swept_and_its_job_has_failed(  # noqa: PLR0917
    journal: Journal,
    supervisor: Supervisor,
    make_envelope: MakeEnvelope,
    recover: Callable[[], dict[str, float]],
    store: Path,
    metrics: WorkerMetrics,
) -> None:
    """It is known what became of the guest, so the job is not lost; it may be submitted again."""
    envelope = make_envelope()
    left_behind(journal, supervisor, envelope, STREAMING)
    leave_image(store, envelope.job_id, state="writing")

    assert recover() == {"adopted": 0, "closed": 1, "lost": 0}

    state, body = end_of(journal, envelope)
    assert state is JobState.FAILED
    assert "the guest is as it was" in body["reason"]
    assert list((store / ".staging").iterdir()) == []
    assert metrics.registry.get_sample_value("fleetsave_recoveries_total", {"kind": "discarded"}) == 1


def test_directory_that_no_job_may_write_to_is_not_searched(
    journal: Journal,
    supervisor: Supervisor,
    make_envelope: MakeEnvelope,
    recover: Callable[[], dict[str, float]],
    tmp_path: Path,
) -> None:
    """What a job names travels; where recovery looks is the host's own affair."""
    elsewhere = tmp_path / "elsewhere"
    envelope = make_envelope(params={"to": str(elsewhere / "a.save")})
    left_behind(journal, supervisor, envelope, STREAMING)
    staging = leave_image(tmp_path, envelope.job_id, to=elsewhere / "a.save")

    recover()

    assert staging.exists()


def test_living_engine_keeps_its_staging_directory(  # noqa: PLR0917
    journal: Journal,
    supervisor: Supervisor,
    metrics: WorkerMetrics,
    leftovers: Leftovers,
    make_envelope: MakeEnvelope,
    store: Path,
    tmp_path: Path,
    around: dict[str, Any],
) -> None:
    """Its worker was killed, it was not: the next worker's recovery leaves it alone and follows it."""
    envelope = make_envelope()
    journal.claim(envelope)
    staging = leave_image(store, envelope.job_id)
    folder = supervisor.jobs_folder / envelope.job_id
    folder.mkdir(parents=True)
    code = f"""
import fcntl, os, pathlib, sys, time
sys.stdin.read()
held = os.open({str(staging)!r}, os.O_RDONLY)
fcntl.flock(held, fcntl.LOCK_EX)
pathlib.Path({str(tmp_path / "held")!r}).touch()
while not pathlib.Path({str(tmp_path / "go")!r}).exists(): time.sleep(0.01)
print('{{"event": "result", "result": {{}}}}', flush=True)
"""
    process = EngineProcess.start(
        (sys.executable, "-c", code),
        "",
        folder=folder,
        environment=dict(os.environ),
        on_started=lambda pid, ticks: journal.record_start(envelope.job_id, pid=pid, start_ticks=ticks),
    )
    while not (tmp_path / "held").exists():
        assert not process.wait_exit(0.02)

    [thread] = recover_jobs(journal, supervisor, metrics, leftovers, **around)

    assert (staging / "memory.save").exists()
    (tmp_path / "go").touch()
    thread.join()
    process.describe_exit()
    process.close()
    assert end_of(journal, envelope)[0] is JobState.SUCCEEDED
    assert metrics.registry.get_sample_value("fleetsave_recoveries_total", {"kind": "published"}) == 0


class Switched:
    """The engine's recovery behind a libvirt that is down until somebody starts it."""

    def __init__(self) -> None:
        self.is_up = False
        self.tries = 0

    def __call__(
        self, uri: str, *, runtime_dir: Path, directories: Any, job_id: str | None = None
    ) -> list[Recovery]:
        """Recover."""
        self.tries += 1
        uri = uri if self.is_up else "qemu+unix:///session?socket=/nonexistent"
        return engine_recover(uri, runtime_dir=runtime_dir, directories=directories, job_id=job_id)


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_cannot_be_decided_is_tried_again(  # noqa: PLR0917
    journal: Journal,
    settings: HostSettings,
    metrics: WorkerMetrics,
    make_envelope: MakeEnvelope,
    store: Path,
    wait_until: Callable[..., Any],
    comes_back: bool,
    around: dict[str, Any],
) -> None:
    """Until libvirt says whether the guest is there; a worker that ends leaves that to the next."""
    switched = Switched()
    leftovers = Leftovers(settings, metrics, recover=switched)
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, leftovers=leftovers)
    envelope = make_envelope()
    left_behind(journal, supervisor, envelope, [*STREAMING, *COMMITTING])
    staging = leave_image(store, envelope.job_id)

    [thread] = recover_jobs(journal, supervisor, metrics, leftovers, **around)

    wait_until(lambda: switched.tries >= 4)
    assert staging.exists()
    assert [entry.state for entry in journal.list_unfinished()] == [JobState.COMMITTING]
    if comes_back:
        switched.is_up = True
    else:
        supervisor.stop_settling()
    thread.join(20)
    assert not thread.is_alive()
    assert end_of(journal, envelope)[0] is (JobState.SUCCEEDED if comes_back else JobState.COMMITTING)
    assert staging.exists() is not comes_back
    steps = [json.loads(told.body)["body"].get("step") for told in journal.list_unsent(100)]
    assert steps.count("stream") == 1, "no event is taken over twice"


def test_job_that_another_process_puts_right_is_waited_for(  # noqa: PLR0917
    journal: Journal,
    supervisor: Supervisor,
    metrics: WorkerMetrics,
    leftovers: Leftovers,
    make_envelope: MakeEnvelope,
    store: Path,
    wait_until: Callable[..., Any],
    around: dict[str, Any],
) -> None:
    """`fleetsave doctor` at the same moment: its lock is no living engine, and the job not lost."""
    envelope = make_envelope()
    left_behind(journal, supervisor, envelope, COMMITTING)
    held = lock_directory(leave_image(store, envelope.job_id))
    assert held is not None

    [thread] = recover_jobs(journal, supervisor, metrics, leftovers, **around)

    wait_until(thread.is_alive)
    assert [entry.job_id for entry in journal.list_unfinished()] == [envelope.job_id]
    os.close(held)
    thread.join(20)
    assert end_of(journal, envelope)[0] is JobState.SUCCEEDED
