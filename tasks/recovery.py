"""At the start of a worker, take up or close every job that the one before left unfinished."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from typing import Final

import structlog

from tasks.host_flags import HostFlags
from tasks.journal import Journal
from tasks.journal_entry import JournalEntry
from tasks.leftovers import Leftovers
from tasks.metrics import WorkerMetrics
from tasks.process import EngineProcess
from tasks.slots import Slots
from tasks.states import JobState
from tasks.supervisor import Supervisor
from tasks.watch import target_of

_log: Final = structlog.get_logger(__name__)


def recover_jobs(
    journal: Journal,
    supervisor: Supervisor,
    metrics: WorkerMetrics,
    leftovers: Leftovers,
    *,
    flags: HostFlags,
    slots: Slots,
    resume: Callable[[JournalEntry], None],
) -> list[threading.Thread]:
    """Put right what dead engines left, close what is over, follow what still runs.

    When this returns, each unfinished job of the journal has either a thread that follows its engine (or
    tries again to find out what became of it), or an end that is journaled. Folders that belong to no
    unfinished job are gone. Guests come first: nothing else has spoken with libvirt before them.

    Args:
        journal: of this host.
        supervisor: follows and closes.
        metrics: told of each.
        leftovers: puts right what dead engines left.
        flags: asked while a job is followed.
        slots: in which what still runs takes its places.
        resume: goes on with a job that was claimed and given to no engine.

    Returns: the threads; `Supervisor.stop_settling` ends those that only try.
    """
    unfinished = journal.list_unfinished()
    targets = (target_of(json.loads(entry.envelope)["params"]) for entry in unfinished)
    leftovers.sweep(target for target in targets if target is not None)
    threads: list[threading.Thread] = []
    kept: set[str] = set()
    for entry in unfinished:
        if entry.engine_pid is None:
            # An engine that is not in the journal was told nothing: there is none, and no folder of one.
            _count(entry, "adopted", metrics)
            continue
        thread = _take_up(entry, supervisor, metrics, flags, slots)
        if thread is not None:
            kept.add(entry.job_id)
            threads.append(thread)
    _remove_folders(supervisor, kept)
    for entry in unfinished:
        if entry.engine_pid is None:
            resume(entry)
    for thread in threads:
        thread.start()
    return threads


def _take_up(
    entry: JournalEntry, supervisor: Supervisor, metrics: WorkerMetrics, flags: HostFlags, slots: Slots
) -> threading.Thread | None:
    """Close the job, or return the thread that will."""
    process = _find_engine(entry)
    if process is not None:
        engine = process
        slots.force(entry.op)

        def follow() -> None:
            try:
                with flags.watching(entry.job_id):
                    supervisor.adopt(entry, engine)
            finally:
                slots.give_back(entry.op)

        return _count(entry, "adopted", metrics, follow)
    ending = supervisor.close_dead(entry, patience_seconds=0.0)
    if ending is None:
        return _count(entry, None, metrics, lambda: supervisor.close_dead(entry))
    _count(entry, "lost" if ending.state is JobState.LOST else "closed", metrics)
    return None


def _count(
    entry: JournalEntry, kind: str | None, metrics: WorkerMetrics, follow: Callable[[], object] | None = None
) -> threading.Thread | None:
    """Count and log what becomes of the job; return a thread that does what is left to do."""
    if kind is not None:
        metrics.recoveries.labels(kind=kind).inc()
    _log.info("job recovered", job_id=entry.job_id, kind=kind or "undecided")
    # Not a daemon: a warm shutdown waits for the jobs it has taken up as for its own.
    return threading.Thread(target=follow, name=f"job-{entry.job_id}") if follow else None


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
