"""Lay out the tables of the host's journal, and bring an older journal up to them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from engine.errors import StorageError

SCHEMA_VERSION: Final = 3
_JOBS: Final = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    attempt INTEGER NOT NULL,
    op TEXT NOT NULL,
    domain TEXT,
    envelope TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    engine_pid INTEGER,
    engine_start_ticks INTEGER,
    read_offset INTEGER NOT NULL DEFAULT 0,
    last_seq INTEGER NOT NULL DEFAULT 0,
    claimed_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT
) STRICT;
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,
    UNIQUE (job_id, seq)
) STRICT;
CREATE INDEX events_unsent ON events (number) WHERE sent = 0;
"""
_WAITING: Final = """
CREATE TABLE waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    attempt INTEGER NOT NULL,
    op TEXT NOT NULL,
    issued_at TEXT NOT NULL,
    envelope TEXT NOT NULL
) STRICT;
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
"""
#: Attempts that this host has said it does not know, and so may not claim any more.
_WITHDRAWN: Final = """
CREATE TABLE withdrawn (
    job_id TEXT PRIMARY KEY,
    attempt INTEGER NOT NULL,
    at TEXT NOT NULL
) STRICT;
"""
#: What leads from each version to the next, from an empty file on.
_STEPS: Final = (_JOBS, _WAITING, _WITHDRAWN)
assert len(_STEPS) == SCHEMA_VERSION


def bring_up(cursor: sqlite3.Cursor, path: Path) -> None:
    """Run the steps that the journal has not seen, in the caller's transaction.

    Raises:
        StorageError: a later program wrote it.
    """
    version = cursor.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StorageError(str(path), f"a journal of version {version}", f"version {SCHEMA_VERSION} or below")
    for step in _STEPS[version:]:
        for statement in step.split(";\n"):
            cursor.execute(statement)
    cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
