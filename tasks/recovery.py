"""At the start of a worker, take up or close every job that the one before left unfinished."""

from __future__ import annotations

import shutil
import threading
from typing import Final

import structlog

from tasks.journal import Journal
from tasks.journal_entry import JournalEntry
from tasks.metrics import WorkerMetrics
from tasks.process import EngineProcess
from tasks.states import JobState
from tasks.supervisor import Supervisor

_log: Final = structlog.get_logger(__name__)


def recover_jobs(journal: Journal, supervisor: Supervisor, metrics: WorkerMetrics) -> list[threading.Thread]:
    """Close what is over and follow what still runs; return the threads that follow, one for each engine.

    When this returns, each unfinished job of the journal has either an engine with a thread that follows
    it, or an end that is journaled. Folders that belong to no unfinished job are gone.
    """
    threads: list[threading.Thread] = []
    kept: set[str] = set()
    for entry in journal.list_unfinished():
        process = _find_engine(entry)
        if process is None:
            ending = supervisor.close_dead(entry)
            kind = "lost" if ending.state is JobState.LOST else "closed"
        else:
            kind = "adopted"
            kept.add(entry.job_id)
            # Not a daemon: a warm shutdown waits for the jobs it has taken up as for its own.
            thread = threading.Thread(
                target=supervisor.adopt, args=(entry, process), name=f"job-{entry.job_id}"
            )
            thread.start()
            threads.append(thread)
        metrics.recoveries.labels(kind=kind).inc()
        _log.info("job recovered", job_id=entry.job_id, kind=kind)
    _remove_folders(supervisor, kept)
    return threads


def _find_engine(entry: JournalEntry) -> EngineProcess | None:
    """Return the job's engine if it still runs."""
    if entry.engine_pid is None or entry.engine_start_ticks is None:
        return None
    return EngineProcess.find(entry.engine_pid, entry.engine_start_ticks)


def _remove_folders(supervisor: Supervisor, kept: set[str]) -> None:
    """Remove the folders of jobs that ended without having them removed."""
    if not supervisor.jobs_folder.is_dir():
        return
    for folder in supervisor.jobs_folder.iterdir():
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
