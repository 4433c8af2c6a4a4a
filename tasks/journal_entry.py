"""Give the journal's rows as frozen values."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from tasks.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One job as this host knows it."""

    job_id: str
    attempt: int
    op: str
    domain: str | None
    #: Canonical JSON, as it came.
    envelope: str
    state: JobState
    reason: str | None
    #: None until the engine process was started.
    engine_pid: int | None
    #: Clock ticks since boot when the process started: with the pid, it names one process.
    engine_start_ticks: int | None
    #: Bytes of the engine's event file that were taken over.
    read_offset: int
    claimed_at: datetime
    started_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """One event that is still to be sent."""

    #: Grows with every event of the host.
    number: int
    #: JSON of a HostEvent.
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingEntry:
    """One job whose doorbell was heard and whose turn has not come."""

    job_id: str
    op: str


def parse_entry(row: sqlite3.Row) -> JournalEntry:
    """Return the value of a row."""
    names = ("job_id", "attempt", "op", "domain", "envelope", "reason", "engine_pid", "engine_start_ticks")
    return JournalEntry(
        **{name: row[name] for name in (*names, "read_offset")},
        state=JobState(row["state"]),
        claimed_at=datetime.fromisoformat(row["claimed_at"]),
        started_at=datetime.fromisoformat(row["started_at"]) if row["started_at"] else None,
    )
