"""Keep the host's own durable record of jobs, and of what is still to be said about them.

A SQLite file that survives power loss at any instant (WAL, synchronous=FULL). A job's new state and the
event that reports it are one transaction: the host never knows more than it will say.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from engine.errors import StorageError
from tasks.envelope import Envelope, format_time
from tasks.host_event import EventKind, HostEvent
from tasks.journal_entry import JournalEntry, OutboxEntry, WaitingEntry, parse_entry
from tasks.journal_schema import bring_up
from tasks.states import FINAL, JobState, is_step

_BUSY_TIMEOUT_SECONDS: Final = 30.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Journal:
    """The host's journal; every method is one transaction, safe in threads.

    Args:
        path: the SQLite file; its directory exists.
        host: this host's name, which every event carries.
        now: clock, aware.
    """

    def __init__(self, path: Path, *, host: str, now: Callable[[], datetime] = _utc_now) -> None:
        self._host = host
        self._now = now
        self._lock = threading.RLock()
        #: Set whenever there is something to send.
        self.has_news = threading.Event()
        try:
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise StorageError(str(path), str(error), "a journal that can be opened") from error
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def hear(self, envelope: Envelope) -> bool:
        """Let a job wait for its turn; False: it waits already, or it is too late for this attempt.

        It is too late once this attempt or a later one was claimed, or disowned. A newer doorbell
        for an attempt that waits replaces the older one, whose time runs out earlier.
        """
        with self._transaction() as cursor:
            if _is_withdrawn(cursor, envelope.job_id, envelope.attempt):
                return False
            claimed = cursor.execute(
                "SELECT 1 FROM jobs WHERE job_id = ? AND attempt >= ?", (envelope.job_id, envelope.attempt)
            ).fetchone()
            if claimed is not None:
                return False
            known = cursor.execute("SELECT 1 FROM waiting WHERE job_id = ?", (envelope.job_id,)).fetchone()
            cursor.execute(
                "INSERT INTO waiting (job_id, attempt, op, issued_at, envelope) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (job_id) DO UPDATE SET attempt = excluded.attempt,"
                " issued_at = excluded.issued_at, envelope = excluded.envelope"
                " WHERE (excluded.attempt, excluded.issued_at) > (attempt, issued_at)",
                (
                    envelope.job_id,
                    envelope.attempt,
                    envelope.op,
                    format_time(envelope.issued_at),
                    envelope.to_bytes().decode(),
                ),
            )
            return known is None

    def list_waiting(self) -> list[WaitingEntry]:
        """Return the jobs that wait for their turn, in the order they were heard of."""
        with self._transaction() as cursor:
            rows = cursor.execute("SELECT job_id, op FROM waiting ORDER BY number")
            return [WaitingEntry(job_id=row["job_id"], op=row["op"]) for row in rows]

    def take_waiting(self, job_id: str) -> str | None:
        """Return the envelope of a job that waits, canonical JSON; None: it does not wait any more."""
        with self._transaction() as cursor:
            row = cursor.execute("SELECT envelope FROM waiting WHERE job_id = ?", (job_id,)).fetchone()
            return str(row["envelope"]) if row else None

    def forget_waiting(self, job_id: str) -> None:
        """Let a job wait no longer, without claiming it."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM waiting WHERE job_id = ?", (job_id,))

    def claim(self, envelope: Envelope) -> bool:
        """Enter an attempt of a job; False: nothing may be done about it.

        An attempt is entered once, a lower one never after a higher, a higher one only when the one before
        has ended, and none that was disowned. That it was is the first thing to be said of it.
        """
        values = (
            envelope.job_id,
            envelope.attempt,
            envelope.op,
            envelope.domain,
            envelope.to_bytes().decode(),
            str(JobState.QUEUED),
            self._now().isoformat(),
        )
        with self._transaction() as cursor:
            cursor.execute(
                "DELETE FROM waiting WHERE job_id = ? AND attempt <= ?", (envelope.job_id, envelope.attempt)
            )
            if _is_withdrawn(cursor, envelope.job_id, envelope.attempt):
                return False
            cursor.execute(
                "INSERT INTO jobs (job_id, attempt, op, domain, envelope, state, claimed_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET"
                " attempt = excluded.attempt, op = excluded.op, domain = excluded.domain,"
                " envelope = excluded.envelope, state = excluded.state, claimed_at = excluded.claimed_at,"
                " reason = NULL, engine_pid = NULL, engine_start_ticks = NULL, read_offset = 0,"
                " started_at = NULL, finished_at = NULL"
                " WHERE excluded.attempt > attempt AND finished_at IS NOT NULL",
                values,
            )
            if cursor.rowcount != 1:
                return False
            self._append(cursor, envelope.job_id, EventKind.STATE, {"state": str(JobState.QUEUED)})
            return True

    def record_start(self, job_id: str, *, pid: int, start_ticks: int) -> None:
        """Write down the engine process, and that the job runs."""
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE jobs SET engine_pid = ?, engine_start_ticks = ?, started_at = ? WHERE job_id = ?",
                (pid, start_ticks, self._now().isoformat(), job_id),
            )
            self._change_state(cursor, job_id, JobState.RUNNING, {"reason": None})

    def record_state(
        self, job_id: str, state: JobState, *, read_offset: int | None = None, **body: Any
    ) -> None:
        """Move the job to another state.

        Args:
            job_id: a job that was claimed.
            state: one that may follow the present one.
            read_offset: bytes of the engine's event file taken over up to here.
            body: "reason", and at the end "result" or "error".

        Raises:
            ValueError: the state may not follow; nothing was written.
        """
        with self._transaction() as cursor:
            self._move_offset(cursor, job_id, read_offset)
            self._change_state(cursor, job_id, state, body)

    def record_event(
        self, job_id: str, kind: EventKind, body: dict[str, Any], *, read_offset: int | None = None
    ) -> None:
        """Put a step, the guest's state or progress into the outbox.

        Of progress that was not sent yet only the newest stays.
        """
        with self._transaction() as cursor:
            self._move_offset(cursor, job_id, read_offset)
            if kind is EventKind.PROGRESS:
                cursor.execute(
                    "DELETE FROM events WHERE job_id = ? AND kind = ? AND sent = 0", (job_id, str(kind))
                )
            self._append(cursor, job_id, kind, body)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make one transaction, and so one wait for the disk, of all that this thread writes in the block."""
        with self._transaction():
            yield

    def find(self, job_id: str) -> JournalEntry | None:
        """Return the entry of a job, if it was claimed."""
        with self._transaction() as cursor:
            row = cursor.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            return parse_entry(row) if row else None

    def list_unfinished(self) -> list[JournalEntry]:
        """Return the jobs that are in no final state, oldest first."""
        marks = ", ".join("?" * len(FINAL))
        with self._transaction() as cursor:
            rows = cursor.execute(
                f"SELECT * FROM jobs WHERE state NOT IN ({marks}) ORDER BY claimed_at",  # noqa: S608
                [str(state) for state in FINAL],
            )
            return [parse_entry(row) for row in rows]

    def list_unsent(self, limit: int) -> list[OutboxEntry]:
        """Return events still to be sent, in the order they were written."""
        with self._transaction() as cursor:
            rows = cursor.execute(
                "SELECT number, body FROM events WHERE sent = 0 ORDER BY number LIMIT ?", (limit,)
            )
            return [OutboxEntry(number=row["number"], body=row["body"]) for row in rows]

    def tell_again(self, job_id: str, attempt: int) -> bool:
        """Put all that was said about an attempt of a job into the outbox again.

        Returns: False where the host does not know it; then it can never be claimed here any more.
        """
        with self._transaction() as cursor:
            row = cursor.execute("SELECT attempt FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            if row is not None and row["attempt"] >= attempt:
                cursor.execute("UPDATE events SET sent = 0 WHERE job_id = ?", (job_id,))
                self.has_news.set()
                return True
            # One that waits has not begun: it gives up its turn.
            cursor.execute("DELETE FROM waiting WHERE job_id = ? AND attempt <= ?", (job_id, attempt))
            cursor.execute(
                "INSERT INTO withdrawn (job_id, attempt, at) VALUES (?, ?, ?)"
                " ON CONFLICT (job_id) DO UPDATE"
                " SET attempt = max(attempt, excluded.attempt), at = excluded.at",
                (job_id, attempt, self._now().isoformat()),
            )
            return False

    def tell_all_again(self, *, since: datetime) -> int:
        """Put all that was said about jobs that have not ended before the moment into the outbox again.

        For when what was sent may be lost before anybody read it. Returns: how many events.
        """
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE events SET sent = 0 WHERE sent = 1 AND job_id IN"
                " (SELECT job_id FROM jobs WHERE finished_at IS NULL OR finished_at >= ?)",
                (since.astimezone(UTC).isoformat(),),
            )
            return cursor.rowcount

    def mark_sent(self, numbers: list[int]) -> None:
        """Write down that these events are in the stream; progress is forgotten."""
        with self._transaction() as cursor:
            cursor.executemany(
                "UPDATE events SET sent = 1 WHERE number = ?", [(number,) for number in numbers]
            )
            cursor.execute("DELETE FROM events WHERE sent = 1 AND kind = ?", (str(EventKind.PROGRESS),))

    def has_unsent(self, job_id: str) -> bool:
        """Tell whether something about the job is still to be said."""
        with self._transaction() as cursor:
            query = "SELECT 1 FROM events WHERE job_id = ? AND sent = 0 LIMIT 1"
            return cursor.execute(query, (job_id,)).fetchone() is not None

    def read_fact(self, name: str) -> str | None:
        """Return what was last written down under the name."""
        with self._transaction() as cursor:
            row = cursor.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return str(row["value"]) if row else None

    def write_fact(self, name: str, value: str) -> None:
        """Write something down that the next worker has to know."""
        with self._transaction() as cursor:
            cursor.execute(
                "INSERT INTO facts (name, value) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, value),
            )

    def prune(self, *, before: datetime) -> int:
        """Forget jobs that ended before the moment and were reported; return how many.

        Keep them longer than an envelope is good, or a replayed doorbell would find its job unknown.
        """
        with self._transaction() as cursor:
            cursor.execute(
                "DELETE FROM jobs WHERE finished_at < ?"
                " AND NOT EXISTS (SELECT 1 FROM events WHERE events.job_id = jobs.job_id AND sent = 0)",
                (before.astimezone(UTC).isoformat(),),
            )
            count = cursor.rowcount
            cursor.execute("DELETE FROM withdrawn WHERE at < ?", (before.astimezone(UTC).isoformat(),))
            return count

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, path: Path) -> None:
        """Set what SQLite keeps per connection, and make the tables where there are none."""
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        with self._transaction() as cursor:
            bring_up(cursor, path)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        """Open a transaction that is on disk when the block ends, or take part in this thread's open one."""
        with self._lock:
            cursor = self._connection.cursor()
            if self._connection.in_transaction:
                yield cursor
                cursor.close()
                return
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            finally:
                cursor.close()

    def _change_state(
        self, cursor: sqlite3.Cursor, job_id: str, state: JobState, body: dict[str, Any]
    ) -> None:
        """Move the job and say so."""
        row = cursor.execute("SELECT state FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        if row is None or not is_step(JobState(row["state"]), state):
            message = f"job {job_id} cannot go from {row['state'] if row else 'nothing'} to {state}"
            raise ValueError(message)
        finished_at = self._now().isoformat() if state in FINAL else None
        cursor.execute(
            "UPDATE jobs SET state = ?, reason = ?, finished_at = ? WHERE job_id = ?",
            (str(state), body.get("reason"), finished_at, job_id),
        )
        self._append(cursor, job_id, EventKind.STATE, {"state": str(state)} | body)

    def _append(self, cursor: sqlite3.Cursor, job_id: str, kind: EventKind, body: dict[str, Any]) -> None:
        """Number an event and put it into the outbox."""
        row = cursor.execute(
            "UPDATE jobs SET last_seq = last_seq + 1 WHERE job_id = ? RETURNING attempt, last_seq", (job_id,)
        ).fetchone()
        before = cursor.execute(
            "SELECT max(seq) AS seq FROM events WHERE job_id = ? AND kind != ?",
            (job_id, str(EventKind.PROGRESS)),
        ).fetchone()
        event = HostEvent(
            host=self._host,
            kind=kind,
            at=self._now(),
            body=body,
            job_id=job_id,
            attempt=row["attempt"],
            seq=row["last_seq"],
            after_seq=before["seq"] or 0,
        )
        cursor.execute(
            "INSERT INTO events (job_id, seq, kind, body) VALUES (?, ?, ?, ?)",
            (job_id, event.seq, str(kind), event.to_json()),
        )
        self.has_news.set()

    @staticmethod
    def _move_offset(cursor: sqlite3.Cursor, job_id: str, read_offset: int | None) -> None:
        """Write down how much of the engine's event file is taken over."""
        if read_offset is not None:
            cursor.execute("UPDATE jobs SET read_offset = ? WHERE job_id = ?", (read_offset, job_id))


def _is_withdrawn(cursor: sqlite3.Cursor, job_id: str, attempt: int) -> bool:
    """Tell whether the host has said that it does not know the attempt."""
    query = "SELECT 1 FROM withdrawn WHERE job_id = ? AND attempt >= ?"
    return cursor.execute(query, (job_id, attempt)).fetchone() is not None
