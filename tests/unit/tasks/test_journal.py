import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StorageError
from tasks import journal_schema
from tasks.envelope import Envelope, parse_envelope
from tasks.host_event import EventKind, parse_event
from tasks.journal import Journal
from tasks.states import FINAL, JobState, is_step

#: The shortest way into each state.
WAYS = {
    JobState.QUEUED: (),
    JobState.RUNNING: (JobState.RUNNING,),
    JobState.COMMITTING: (JobState.RUNNING, JobState.COMMITTING),
    JobState.SUCCEEDED: (JobState.RUNNING, JobState.COMMITTING, JobState.SUCCEEDED),
    JobState.FAILED: (JobState.FAILED,),
    JobState.CANCELLED: (JobState.CANCELLED,),
    JobState.LOST: (JobState.LOST,),
}


def unsent(journal: Journal) -> list[tuple[int | None, str, dict[str, Any]]]:
    """Return number, kind and body of what is still to be sent."""
    events = [parse_event(entry.body) for entry in journal.list_unsent(1000)]
    return [(event.seq, str(event.kind), event.body) for event in events]


def test_one_of_many_claims_wins(journal: Journal, make_envelope: Callable[..., Envelope]) -> None:
    """Sixteen threads, one doorbell."""
    envelope, won, start = make_envelope(), [], threading.Barrier(16)

    def claim() -> None:
        start.wait()
        won.append(journal.claim(envelope))

    threads = [threading.Thread(target=claim) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 15 + [True]


def test_claimed_job_is_known_after_reopening(tmp_path: Path, make_envelope: Callable[..., Envelope]) -> None:
    """The envelope can be read again."""
    envelope = make_envelope(params={"dxml": "<domain/>"})
    with Journal(tmp_path / "j", host="alpha") as journal:
        assert journal.claim(envelope)
    with Journal(tmp_path / "j", host="alpha") as journal:
        assert not journal.claim(envelope)
        [entry] = journal.list_unfinished()
        assert (entry.job_id, entry.state, entry.engine_pid) == (envelope.job_id, JobState.QUEUED, None)
        read = parse_envelope(entry.envelope.encode(), host="alpha", now=envelope.issued_at)
        assert read == envelope


@pytest.mark.parametrize(("old", "new"), list(product(JobState, JobState)))
def test_only_steps_of_the_table_are_written(
    journal: Journal, make_envelope: Callable[..., Envelope], old: JobState, new: JobState
) -> None:
    """Every pair of states: a step is written with its event, anything else changes nothing."""
    envelope = make_envelope()
    journal.claim(envelope)
    for state in WAYS[old]:
        journal.record_state(envelope.job_id, state)
    before = unsent(journal)
    if is_step(old, new):
        journal.record_state(envelope.job_id, new, reason="why")
        assert unsent(journal) == [*before, (len(before) + 1, "state", {"state": str(new), "reason": "why"})]
    else:
        with pytest.raises(ValueError, match="cannot go from"):
            journal.record_state(envelope.job_id, new)
        assert unsent(journal) == before
    entry = journal.find(envelope.job_id)
    assert entry is not None
    assert entry.state is (new if is_step(old, new) else old)
    assert (entry in journal.list_unfinished()) is (entry.state not in FINAL)


def test_of_unsent_progress_only_the_newest_stays(
    journal: Journal, make_envelope: Callable[..., Envelope]
) -> None:
    """However long Redis is away, the outbox does not grow by it; numbers are not used twice."""
    envelope = make_envelope()
    journal.claim(envelope)
    journal.record_start(envelope.job_id, pid=1, start_ticks=2)
    for done in range(5):
        journal.record_event(envelope.job_id, EventKind.PROGRESS, {"bytes": done, "total": None})
    assert unsent(journal) == [
        (1, "state", {"state": "queued"}),
        (2, "state", {"state": "running", "reason": None}),
        (7, "progress", {"bytes": 4, "total": None}),
    ]


def test_sent_events_are_not_sent_again(journal: Journal, make_envelope: Callable[..., Envelope]) -> None:
    """Each is marked by its number."""
    envelope = make_envelope()
    journal.claim(envelope)
    journal.record_event(envelope.job_id, EventKind.STEP, {"step": "a"})
    journal.record_event(envelope.job_id, EventKind.STEP, {"step": "b"})
    journal.mark_sent([entry.number for entry in journal.list_unsent(2)])
    assert [body for _, _, body in unsent(journal)] == [{"step": "b"}]


def test_attempt_is_claimed_once_and_a_lower_one_never_after_a_higher(
    journal: Journal, make_envelope: Callable[..., Envelope]
) -> None:
    """The next comes when the one before has ended; its events go on where those stopped."""
    first = make_envelope()
    second, third = (replace(first, attempt=attempt) for attempt in (2, 3))
    assert journal.claim(first)
    assert not journal.claim(second), "the first has not ended"
    journal.record_start(first.job_id, pid=1, start_ticks=1)
    journal.record_state(first.job_id, JobState.FAILED, reason="busy")
    assert not journal.claim(first), "it has ended, and is not done again"
    assert not journal.hear(first)
    assert journal.hear(third)
    assert not journal.hear(third)
    assert journal.claim(third)
    assert journal.list_waiting() == []
    assert [journal.claim(one) for one in (first, second, third)] == [False] * 3
    assert [journal.hear(one) for one in (first, second, third)] == [False] * 3
    entry = journal.find(first.job_id)
    assert entry is not None
    assert (entry.attempt, entry.state, entry.reason) == (3, JobState.QUEUED, None)
    assert (entry.engine_pid, entry.started_at) == (None, None)
    told = [parse_event(one.body) for one in journal.list_unsent(10)]
    assert [(one.seq, one.attempt) for one in told] == [(1, 1), (2, 1), (3, 1), (4, 3)]


def test_job_that_waits_is_known_after_reopening(
    tmp_path: Path, make_envelope: Callable[..., Envelope]
) -> None:
    """With the newest envelope that was heard, in its first place; no event tells of it."""
    first, other = make_envelope(), make_envelope()
    newer = replace(first, issued_at=first.issued_at + timedelta(hours=1))
    with Journal(tmp_path / "j", host="alpha") as journal:
        assert [journal.hear(one) for one in (first, other, newer, first)] == [True, True, False, False]
    with Journal(tmp_path / "j", host="alpha") as journal:
        assert [one.job_id for one in journal.list_waiting()] == [first.job_id, other.job_id]
        assert journal.take_waiting(first.job_id) == newer.to_bytes().decode()
        journal.forget_waiting(first.job_id)
        assert journal.take_waiting(first.job_id) is None
        assert unsent(journal) == []


def test_journal_of_the_first_version_is_brought_up(
    tmp_path: Path, make_envelope: Callable[..., Envelope]
) -> None:
    """What it held is there, and it holds what is new."""
    connection = sqlite3.connect(tmp_path / "j")
    connection.executescript(journal_schema._JOBS)
    connection.execute(
        "INSERT INTO jobs (job_id, attempt, op, envelope, state, claimed_at)"
        " VALUES ('old', 1, 'save', '{}', 'running', '2026-01-01T00:00:00+00:00')"
    )
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    with Journal(tmp_path / "j", host="alpha") as journal:
        assert [entry.job_id for entry in journal.list_unfinished()] == ["old"]
        assert journal.hear(make_envelope())
        journal.write_fact("a", "1")
        journal.write_fact("a", "2")
        assert (journal.read_fact("a"), journal.read_fact("b")) == ("2", None)


def test_prune_forgets_what_ended_and_was_reported(
    journal: Journal, make_envelope: Callable[..., Envelope]
) -> None:
    """Running jobs and those with something left to say stay."""
    running, unreported, done = make_envelope(), make_envelope(), make_envelope()
    for envelope in (running, unreported, done):
        journal.claim(envelope)
    journal.record_state(done.job_id, JobState.FAILED)
    journal.mark_sent([entry.number for entry in journal.list_unsent(10)])
    journal.record_state(unreported.job_id, JobState.FAILED)

    assert journal.prune(before=datetime.now(UTC) - timedelta(days=1)) == 0
    assert journal.prune(before=datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert [journal.find(e.job_id) is not None for e in (running, unreported, done)] == [True, True, False]


def test_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """An older program must not write into a newer one's journal."""
    connection = sqlite3.connect(tmp_path / "j")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="version 99"):
        Journal(tmp_path / "j", host="alpha")


def test_batch_is_written_whole_or_not_at_all(
    journal: Journal, make_envelope: Callable[..., Envelope]
) -> None:
    """One wait for the disk for many events; another thread's writing waits."""
    envelope = make_envelope()
    journal.claim(envelope)
    with journal.batch():
        journal.record_start(envelope.job_id, pid=1, start_ticks=1)
        journal.record_event(envelope.job_id, EventKind.STEP, {"step": "a"})
    assert len(unsent(journal)) == 3

    def fail() -> None:
        with journal.batch():
            journal.record_event(envelope.job_id, EventKind.STEP, {"step": "b"})
            journal.record_state(envelope.job_id, JobState.SUCCEEDED)

    with pytest.raises(ValueError, match="cannot go from"):
        fail()
    assert len(unsent(journal)) == 3


_WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tasks.envelope import Envelope, new_nonce
from tasks.host_event import EventKind
from tasks.journal import Journal
from tasks.states import JobState

journal = Journal(Path(sys.argv[1]), host="alpha")
now = datetime.now(UTC)
for number in range(1_000_000):
    job_id = f"job-{number}"
    journal.claim(Envelope(job_id=job_id, attempt=1, op="save", host="alpha", domain="d", params={},
                           issued_at=now, expires_at=now + timedelta(hours=1), nonce=new_nonce()))
    journal.record_start(job_id, pid=1, start_ticks=1)
    journal.record_event(job_id, EventKind.PROGRESS, {"bytes": 1, "total": 2})
    journal.record_state(job_id, JobState.COMMITTING)
    journal.record_state(job_id, JobState.SUCCEEDED, result={})
    print(number, flush=True)
"""


@pytest.mark.parametrize("jobs", [1, 4, 9])
def test_killed_writer_leaves_every_state_with_its_event(tmp_path: Path, jobs: int) -> None:
    """Killed at any instant: state, events and numbers agree, and what was reported done is there."""
    path = tmp_path / "j"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, env=environment, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(jobs):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)

    with Journal(path, host="alpha"):
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT job_id, state, last_seq FROM jobs").fetchall()
        states = dict(row[:2] for row in rows)
        assert all(states[f"job-{number}"] == "succeeded" for number in range(last + 1))
        for job_id, state, last_seq in rows:
            events = connection.execute(
                "SELECT seq, kind, body FROM events WHERE job_id = ? ORDER BY seq", (job_id,)
            ).fetchall()
            said = [json.loads(body)["body"]["state"] for _, kind, body in events if kind == "state"]
            assert (said[-1] if said else "queued") == state
            assert [seq for seq, _, _ in events] == list(range(1, last_seq + 1))
        connection.close()


def test_attempt_that_the_host_does_not_know_can_never_be_claimed(
    tmp_path: Path, make_envelope: Callable[..., Envelope]
) -> None:
    """Nor an earlier one, nor after a restart; a later one can, until it is disowned in turn."""
    envelopes = [make_envelope(job_id="moved", attempt=number) for number in (1, 2, 3)]
    with Journal(tmp_path / "j", host="alpha") as journal:
        assert not journal.tell_again(envelopes[0].job_id, 2)
    with Journal(tmp_path / "j", host="alpha") as journal:
        assert [journal.claim(envelope) for envelope in envelopes[:2]] == [False, False]
        assert not journal.tell_again(envelopes[0].job_id, 1)
        assert not journal.claim(envelopes[1])
        assert journal.claim(envelopes[2])
        assert journal.tell_again(envelopes[0].job_id, 3)


def test_claim_and_question_at_the_same_moment_agree(
    journal: Journal, make_envelope: Callable[..., Envelope]
) -> None:
    """Either the job is claimed and known, or it is unknown and never claimed."""
    for number in range(20):
        envelope, start = make_envelope(job_id=f"race-{number}"), threading.Barrier(2)
        told: list[bool] = []

        def ask(job_id: str = envelope.job_id, start: threading.Barrier = start) -> None:
            start.wait()
            told.append(journal.tell_again(job_id, 1))  # noqa: B023 - joined before the next turn

        thread = threading.Thread(target=ask)
        thread.start()
        start.wait()
        is_claimed = journal.claim(envelope)
        thread.join()
        assert told == [is_claimed]
        assert (journal.find(envelope.job_id) is not None) == is_claimed


def test_what_was_sent_can_be_told_again(journal: Journal, make_envelope: Callable[..., Envelope]) -> None:
    """All of it but progress, in the order it was written."""
    envelope = make_envelope()
    journal.claim(envelope)
    journal.record_start(envelope.job_id, pid=1, start_ticks=1)
    journal.record_event(envelope.job_id, EventKind.PROGRESS, {"bytes": 1, "total": None})
    journal.record_state(envelope.job_id, JobState.FAILED, reason="x")
    journal.mark_sent([entry.number for entry in journal.list_unsent(10)])
    journal.has_news.clear()
    assert journal.tell_again(envelope.job_id, 1)
    assert journal.has_news.is_set()
    assert [(seq, kind) for seq, kind, _ in unsent(journal)] == [
        (1, "state"), (2, "state"), (4, "state"),
    ]  # fmt: skip


def test_each_event_names_the_one_before(journal: Journal, make_envelope: Callable[..., Envelope]) -> None:
    """So that whoever misses one can tell; progress does not count."""
    envelope = make_envelope()
    journal.claim(envelope)
    journal.record_start(envelope.job_id, pid=1, start_ticks=1)
    journal.record_event(envelope.job_id, EventKind.PROGRESS, {"bytes": 1, "total": None})
    journal.record_event(envelope.job_id, EventKind.STEP, {"step": "stream"})
    journal.mark_sent([entry.number for entry in journal.list_unsent(10)])
    journal.record_state(envelope.job_id, JobState.FAILED, reason="x")
    journal.tell_again(envelope.job_id, 1)
    events = [parse_event(entry.body) for entry in journal.list_unsent(10)]
    assert [(event.seq, event.after_seq) for event in events] == [(1, 0), (2, 1), (4, 2), (5, 4)]


def test_disowned_attempts_are_forgotten_with_old_jobs(
    journal: Journal, make_envelope: Callable[..., Envelope]
) -> None:
    """No doorbell for them can be good by then."""
    envelope = make_envelope()
    journal.tell_again(envelope.job_id, 1)
    journal.prune(before=datetime.now(UTC) + timedelta(seconds=1))
    assert journal.claim(envelope)
