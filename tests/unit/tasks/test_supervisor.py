import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import stopping
from tasks import supervisor as supervisor_module
from tasks.config import HostSettings
from tasks.envelope import Envelope
from tasks.host_event import EventKind, parse_event
from tasks.journal import Journal
from tasks.metrics import WorkerMetrics
from tasks.states import JobState
from tasks.supervisor import Ending, Supervisor
from tests.data.dead_engine import leave_image

ENGINE = Path(__file__).resolve().parents[2] / "data" / "stand_in_engine.py"

MakeEnvelope = Callable[..., Envelope]


def run(supervisor: Supervisor, journal: Journal, envelope: Envelope) -> Ending:
    """Claim and run."""
    assert journal.claim(envelope)
    return supervisor.run(envelope)


def said(journal: Journal) -> list[str]:
    """Return what is in the outbox, in short."""
    events = [parse_event(entry.body) for entry in journal.list_unsent(1000)]
    return [str(event.body.get("state") or event.body.get("step") or event.kind) for event in events]


def test_success_goes_through_every_state(
    supervisor: Supervisor, journal: Journal, make_envelope: MakeEnvelope, metrics: WorkerMetrics
) -> None:
    """Steps, pauses and progress are told; the folder is gone; the numbers are counted."""
    ending = run(supervisor, journal, make_envelope())

    assert ending.state is JobState.SUCCEEDED
    assert [word for word in said(journal) if word != "progress"] == [
        "queued", "running", "preflight", "staging", "call", "paused", "stream", "committing", "committed",
        "succeeded",
    ]  # fmt: skip
    assert "progress" in said(journal)
    assert list(supervisor.jobs_folder.iterdir()) == []
    value = metrics.registry.get_sample_value
    assert value("fleetsave_jobs_total", {"op": "save", "outcome": "succeeded"}) == 1
    assert value("fleetsave_bytes_written_total", {"op": "save", "mode": "direct"}) == 1048576
    assert value("fleetsave_guest_paused_seconds_sum", {"op": "save"}) == 0.25
    assert value("fleetsave_jobs_running", {"op": "save"}) == 0


def test_where_to_write_comes_from_the_host_alone(
    supervisor: Supervisor, journal: Journal, make_envelope: MakeEnvelope, settings: HostSettings
) -> None:
    """The message says what; the host's settings say where."""
    ending = run(supervisor, journal, make_envelope(params={"to": "/x/a.save", "bypass_cache": "off"}))
    assert ending.result is not None
    asked = ending.result["request"]
    assert (asked["to"], asked["bypass_cache"]) == ("/x/a.save", "off")
    assert (asked["uri"], asked["store"], asked["runtime_dir"]) == (
        settings.uri, str(settings.store), str(settings.runtime_dir),
    )  # fmt: skip
    assert asked["allowed_roots"] == [str(settings.store)]


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("crash-1", ["killed by SIGKILL", "last words"]),
        ("silent-1", ["exit status 3", "without a result"]),
        ("refuse-1", ["domain is shut off"]),
    ],
)
def test_failed_engine_leaves_a_reason(
    supervisor: Supervisor, journal: Journal, make_envelope: MakeEnvelope, domain: str, words: list[str]
) -> None:
    """However it ends, a person can act on the sentence."""
    ending = run(supervisor, journal, make_envelope(domain))
    assert ending.state is JobState.FAILED
    assert ending.reason is not None
    assert all(word in ending.reason for word in words)
    assert journal.list_unfinished() == []
    assert said(journal)[-1] == "failed"


def python(code: str) -> tuple[str, ...]:
    """Return a command that reads its request and runs the code."""
    return (sys.executable, "-c", f"import json, os, sys, time\nsys.stdin.read()\n{code}")


RESULT = '{"event": "result", "result": {}}'
CANCELLED = '{"event": "error", "error": {"class": "CancelledError", "message": "stopped"}}'


@pytest.mark.parametrize(
    ("line", "states"),
    [
        (RESULT, ["queued", "running", "committing", "succeeded"]),
        (CANCELLED, ["queued", "running", "cancelled"]),
        ('{"event": "result", "result": 3}', ["queued", "running", "recover", "failed"]),
        ("42", ["queued", "running", "recover", "failed"]),
    ],
)
def test_last_line_decides(  # noqa: PLR0917
    journal: Journal,
    settings: HostSettings,
    metrics: WorkerMetrics,
    make_envelope: MakeEnvelope,
    line: str,
    states: list[str],
) -> None:
    """A result needs no commit step; a cancelled engine says so itself; nonsense is no end."""
    command = python(f"print({line!r}, flush=True)")
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, command=command)
    assert run(supervisor, journal, make_envelope()).state == states[-1]
    assert said(journal) == states


def test_engine_that_does_not_end_after_its_result_is_killed(
    journal: Journal,
    settings: HostSettings,
    metrics: WorkerMetrics,
    make_envelope: MakeEnvelope,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job has its result; the slot and the domain's lock come free."""
    monkeypatch.setattr(supervisor_module, "_EXIT_SECONDS", 0.2)
    command = python("""print('{"event": "result", "result": {}}', flush=True); time.sleep(60)""")
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, command=command)
    assert run(supervisor, journal, make_envelope()).state is JobState.SUCCEEDED


def test_killed_after_the_point_of_no_return_says_so(
    journal: Journal, settings: HostSettings, metrics: WorkerMetrics, make_envelope: MakeEnvelope
) -> None:
    """The operator must look before starting the domain."""
    command = python("""print('{"event": "step", "step": "commit"}', flush=True); os.kill(os.getpid(), 9)""")
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, command=command)
    ending = run(supervisor, journal, make_envelope())
    assert ending.state is JobState.FAILED
    assert "point of no return" in str(ending.reason)
    assert said(journal) == ["queued", "running", "committing", "recover", "failed"]


@pytest.mark.parametrize("command", [("/no/such/program",), ("/etc/passwd",)])
def test_engine_that_cannot_be_started_fails_its_job(
    journal: Journal,
    settings: HostSettings,
    metrics: WorkerMetrics,
    make_envelope: MakeEnvelope,
    command: tuple[str, ...],
) -> None:
    """It never ran, and the folder is gone."""
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, command=command)
    ending = run(supervisor, journal, make_envelope())
    assert ending.state is JobState.FAILED
    assert "cannot be started" in str(ending.reason)
    assert said(journal) == ["queued", "failed"]
    assert list(supervisor.jobs_folder.iterdir()) == []


def test_progress_is_told_once_a_second_at_most(
    journal: Journal, settings: HostSettings, metrics: WorkerMetrics, make_envelope: MakeEnvelope
) -> None:
    """A thousand lines of the engine are two of ours, the last among them."""
    line = """json.dumps({"event": "progress", "bytes": n, "total": None})"""
    command = python(f"for n in range(1000): print({line}, flush=True)")
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, command=command)
    told: list[Any] = []
    journal_record = journal.record_event

    def record(*arguments: Any, **named: Any) -> None:
        told.append(arguments[2])
        journal_record(*arguments, **named)

    journal.record_event = record  # type: ignore[method-assign]
    run(supervisor, journal, make_envelope())
    told = [body for body in told if "bytes" in body]
    assert 1 <= len(told) <= 3
    assert told[-1] == {"bytes": 999, "total": None}


def test_module_of_the_real_engine_is_the_default_command() -> None:
    """The interpreter that runs the worker runs the engine."""
    command = supervisor_module.ENGINE_COMMAND
    assert command == (sys.executable, "-m", "engine")
    assert Path(sys.executable).is_absolute()


def test_image_of_an_engine_that_died_is_reported_at_once(
    journal: Journal, settings: HostSettings, metrics: WorkerMetrics, make_envelope: MakeEnvelope
) -> None:
    """The guest had been let go, so the image is published and the job has succeeded."""
    assert settings.store is not None
    settings.store.mkdir()
    envelope = make_envelope()
    staging = leave_image(settings.store, envelope.job_id)
    command = python("""print('{"event": "step", "step": "commit"}', flush=True); os.kill(os.getpid(), 9)""")
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, command=command)

    ending = run(supervisor, journal, envelope)

    assert ending.state is JobState.SUCCEEDED
    assert ending.result is not None
    assert (ending.result["job_id"], ending.result["bytes"]) == (envelope.job_id, 3)
    assert Path(ending.result["path"], "memory.save").read_bytes() == b"abc"
    assert not staging.exists()
    value = metrics.registry.get_sample_value
    assert value("fleetsave_recoveries_total", {"kind": "published"}) == 1
    assert value("fleetsave_jobs_total", {"op": "save", "outcome": "succeeded"}) == 1
    assert value("fleetsave_bytes_written_total", {"op": "save", "mode": "direct"}) == 3


def test_engine_that_does_not_stop_is_killed_and_what_it_left_put_right(
    journal: Journal,
    settings: HostSettings,
    metrics: WorkerMetrics,
    make_envelope: MakeEnvelope,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cancelled all the same: the guest is as it was, and the staging directory is gone."""
    monkeypatch.setattr(stopping, "STOP_SECONDS", 0.2)
    assert settings.store is not None
    settings.store.mkdir()
    envelope = make_envelope("deaf-1")
    staging = leave_image(settings.store, envelope.job_id, state="writing")
    supervisor = Supervisor(
        journal=journal,
        settings=settings,
        metrics=metrics,
        command=(sys.executable, str(ENGINE)),
        is_cancelled=lambda _job_id: (settings.runtime_dir / "starts").exists(),
    )

    ending = run(supervisor, journal, envelope)

    assert ending.state is JobState.CANCELLED
    assert "put right" in str(ending.reason)
    assert not staging.exists()


def test_engine_that_is_stopped_before_it_has_listened_is_cancelled(
    journal: Journal, settings: HostSettings, metrics: WorkerMetrics, make_envelope: MakeEnvelope
) -> None:
    """SIGTERM ends an interpreter that is only starting: nothing was touched."""
    supervisor = Supervisor(
        journal=journal,
        settings=settings,
        metrics=metrics,
        command=python("time.sleep(60)"),
        is_cancelled=lambda _job_id: True,
    )
    ending = run(supervisor, journal, make_envelope())
    assert ending.state is JobState.CANCELLED
    assert "touched nothing" in str(ending.reason)


def test_engine_that_dies_unasked_after_touching_the_guest_is_not_called_cancelled(
    journal: Journal, settings: HostSettings, metrics: WorkerMetrics, make_envelope: MakeEnvelope
) -> None:
    """Nothing says that the guest is as before: a person has to look."""
    said = 'print(json.dumps({"event": "step", "step": "call"}), flush=True)'
    supervisor = Supervisor(
        journal=journal,
        settings=settings,
        metrics=metrics,
        command=python(f"{said}; time.sleep(60)"),
        is_cancelled=lambda job_id: "call" in said_steps(journal, job_id),
    )
    ending = run(supervisor, journal, make_envelope())
    assert ending.state is JobState.FAILED
    assert "have to be looked at" in str(ending.reason)


def said_steps(journal: Journal, job_id: str) -> list[str]:
    """Return the steps of a job that were journaled."""
    events = [parse_event(entry.body) for entry in journal.list_unsent(1000)]
    return [str(event.body["step"]) for event in events if event.job_id == job_id and "step" in event.body]


@pytest.mark.parametrize(
    ("op", "steps", "repeatable"),
    [
        ("save", ["preflight"], True),
        ("save", ["preflight", "call", "prepared"], True),
        ("save", ["preflight", "call", "commit"], False),
        ("restore", ["preflight"], True),
        ("restore", ["preflight", "call"], False),
        ("managed-save", ["preflight", "call", "commit"], False),
    ],
)
def test_passing_failure_says_whether_it_may_be_repeated(  # noqa: PLR0917
    journal: Journal,
    settings: HostSettings,
    metrics: WorkerMetrics,
    make_envelope: MakeEnvelope,
    op: str,
    steps: list[str],
    repeatable: bool,
) -> None:
    """By what was recorded before it was done; also when an earlier worker has taken that over."""
    lines = [{"event": "step", "step": step} for step in steps]
    lines.append(
        {"event": "error", "error": {"class": "TryAgainError", "message": "busy", "transient": True}}
    )
    command = python(f"for line in {lines!r}: print(json.dumps(line), flush=True)")
    supervisor = Supervisor(journal=journal, settings=settings, metrics=metrics, command=command)
    domain, params = (None, {"path": "/a"}) if op == "restore" else ("web-1", {})
    run(supervisor, journal, make_envelope(domain, op=op, params=params))
    last = parse_event(journal.list_unsent(1000)[-1].body)
    assert (last.body["state"], last.body["repeatable"]) == ("failed", repeatable)


def test_next_worker_recalls_what_was_recorded(
    journal: Journal, supervisor: Supervisor, make_envelope: MakeEnvelope
) -> None:
    """The step was taken over by the worker before; only the error is new."""
    envelope = make_envelope(None, op="restore", params={"path": "/a"})
    journal.claim(envelope)
    journal.record_start(envelope.job_id, pid=1, start_ticks=1)
    folder = supervisor.jobs_folder / envelope.job_id
    folder.mkdir(parents=True)
    call = '{"event": "step", "step": "call"}\n'
    error = {"event": "error", "error": {"class": "TryAgainError", "message": "busy", "transient": True}}
    (folder / "events.jsonl").write_text(call + json.dumps(error) + "\n")
    journal.record_event(envelope.job_id, EventKind.STEP, {"step": "call"}, read_offset=len(call))
    entry = journal.find(envelope.job_id)
    assert entry is not None

    supervisor.close_dead(entry)

    assert parse_event(journal.list_unsent(1000)[-1].body).body["repeatable"] is False
