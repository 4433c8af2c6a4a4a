"""Run one engine process for one job: journal what it says, and what became of it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from engine.errors import EngineError
from tasks.config import HostSettings, engine_environment
from tasks.envelope import Envelope
from tasks.event_file import EventFile
from tasks.host_event import EventKind
from tasks.journal import Journal
from tasks.journal_entry import JournalEntry
from tasks.metrics import WorkerMetrics
from tasks.process import EngineProcess, read_last_line
from tasks.request import build_request
from tasks.states import JobState

ENGINE_COMMAND: Final = (sys.executable, "-m", "engine")
#: Seconds between two looks at the event file; the end of the process is noticed at once.
_POLL_SECONDS: Final = 0.1
#: Seconds between two reports of progress.
_PROGRESS_SECONDS: Final = 1.0
#: Seconds an engine may take to end after its last line.
_EXIT_SECONDS: Final = 10.0

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a job ended."""

    state: JobState
    reason: str | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class _Watch:
    """What the supervisor knows about one running job."""

    job_id: str
    op: str
    folder: Path
    state: JobState
    events: EventFile
    started_at: datetime
    ending: Ending | None = None
    #: Bytes and total that were not reported yet.
    progress: dict[str, Any] | None = None
    progress_at: float = field(default=0.0)


class Supervisor:
    """Starts and follows engines; one call for each job, in any thread.

    Args:
        journal: of this host.
        settings: of this host.
        metrics: told of every job.
        command: what to run as the engine.
        now: clock, aware.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        settings: HostSettings,
        metrics: WorkerMetrics,
        command: Sequence[str] = ENGINE_COMMAND,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._metrics = metrics
        self._command = command
        self._now = now

    @property
    def jobs_folder(self) -> Path:
        """Return the directory that holds one folder for each unfinished job."""
        return self._settings.state_dir / "jobs"

    def run(self, envelope: Envelope) -> Ending:
        """Run the engine for a job that was claimed, to its end."""
        watch = self._watch(envelope.job_id, envelope.op, JobState.QUEUED)
        self._metrics.queue_wait(envelope.op, (watch.started_at - envelope.issued_at).total_seconds())
        with self._metrics.running(envelope.op):
            try:
                process = self._start(watch, envelope)
            except (OSError, EngineError) as error:
                return self._close(watch, _failed_to_start(error))
            return self._follow(watch, process)

    def adopt(self, entry: JournalEntry, process: EngineProcess) -> Ending:
        """Follow an engine that an earlier worker started, to its end."""
        watch = self._watch_entry(entry)
        with self._metrics.running(entry.op):
            return self._follow(watch, process)

    def close_dead(self, entry: JournalEntry) -> Ending:
        """Close a job whose engine is gone: with its last line if there is one, else as lost.

        What the engine left at the guest and in staging is for the engine's own recovery to put right.
        """
        watch = self._watch_entry(entry)
        self._take_over(watch)
        if entry.engine_pid is None:
            ending = _lost(
                "the worker stopped before the engine was told anything; the guest was not touched"
            )
        else:
            ending = watch.ending or _lost(
                _with_last_words("neither the engine nor its worker lived to say what happened", watch.folder)
            )
        return self._close(watch, ending)

    def _watch(self, job_id: str, op: str, state: JobState) -> _Watch:
        """Return the record of a job that starts now."""
        folder = self.jobs_folder / job_id
        return _Watch(
            job_id=job_id,
            op=op,
            folder=folder,
            state=state,
            events=EventFile(folder / "events.jsonl"),
            started_at=self._now(),
        )

    def _watch_entry(self, entry: JournalEntry) -> _Watch:
        """Return the record of a job that an earlier worker began."""
        watch = self._watch(entry.job_id, entry.op, entry.state)
        watch.events = EventFile(watch.folder / "events.jsonl", entry.read_offset)
        watch.started_at = entry.started_at or entry.claimed_at
        return watch

    def _start(self, watch: _Watch, envelope: Envelope) -> EngineProcess:
        """Start the engine; when this returns, the journal says that the job runs."""
        request = build_request(envelope, self._settings).to_json()
        watch.folder.mkdir(mode=0o700, parents=True)

        def note(pid: int, start_ticks: int) -> None:
            self._journal.record_start(watch.job_id, pid=pid, start_ticks=start_ticks)
            watch.state = JobState.RUNNING

        return EngineProcess.start(
            self._command, request, folder=watch.folder, environment=engine_environment(), on_started=note
        )

    def _follow(self, watch: _Watch, process: EngineProcess) -> Ending:
        """Take over what the engine says until it has ended."""
        deadline: float | None = None
        try:
            while not process.wait_exit(_POLL_SECONDS):
                self._take_over(watch)
                if watch.ending is None:
                    continue
                # It has said its last line; it holds the domain's lock until it is gone.
                deadline = deadline or time.monotonic() + _EXIT_SECONDS
                if time.monotonic() > deadline:
                    _log.warning("engine does not end", job_id=watch.job_id, pid=process.pid)
                    process.kill()
            self._take_over(watch)
            ending = watch.ending or _died(process.describe_exit(), watch)
        finally:
            process.close()
        return self._close(watch, ending)

    def _take_over(self, watch: _Watch) -> None:
        """Journal what the engine has written since the last look."""
        if events := list(watch.events.read_new()):
            with self._journal.batch():
                for event, offset in events:
                    self._take_event(watch, event, offset)
        if watch.progress is not None and time.monotonic() - watch.progress_at >= _PROGRESS_SECONDS:
            self._report_progress(watch)

    def _take_event(self, watch: _Watch, event: dict[str, Any], offset: int) -> None:
        """Journal one event of the engine."""
        match event:
            case {"event": "step", "step": "commit"}:
                if watch.state is JobState.RUNNING:
                    self._journal.record_state(
                        watch.job_id, JobState.COMMITTING, reason=None, read_offset=offset
                    )
                    watch.state = JobState.COMMITTING
            case {"event": "step", "step": str(step)}:
                self._journal.record_event(watch.job_id, EventKind.STEP, {"step": step}, read_offset=offset)
            case {"event": "guest", "state": str(state)}:
                self._journal.record_event(
                    watch.job_id, EventKind.GUEST, {"state": state}, read_offset=offset
                )
            case {"event": "progress", "bytes": int(done)}:
                watch.progress = {"bytes": done, "total": event.get("total")}
            case {"event": "result", "result": dict(result)}:
                watch.ending = Ending(state=JobState.SUCCEEDED, result=result)
            case {"event": "error", "error": dict(error)}:
                is_cancelled = error.get("class") == "CancelledError"
                state = JobState.CANCELLED if is_cancelled else JobState.FAILED
                watch.ending = Ending(state=state, reason=str(error.get("message", "")), error=error)
            case _:
                _log.debug("engine event passed over", job_id=watch.job_id, engine_event=event.get("event"))

    def _report_progress(self, watch: _Watch) -> None:
        """Put the newest progress into the outbox."""
        if watch.progress is not None:
            self._journal.record_event(watch.job_id, EventKind.PROGRESS, watch.progress)
            watch.progress, watch.progress_at = None, time.monotonic()

    def _close(self, watch: _Watch, ending: Ending) -> Ending:
        """Journal the end, count it, and clear the job's folder."""
        self._report_progress(watch)
        if ending.state is JobState.SUCCEEDED and watch.state is JobState.RUNNING:
            # An engine may have nothing that it could not take back; the states stay the same for all.
            self._journal.record_state(watch.job_id, JobState.COMMITTING, reason=None)
        body = {"result": ending.result} if ending.result is not None else {"error": ending.error}
        self._journal.record_state(watch.job_id, ending.state, reason=ending.reason, **body)
        duration = (self._now() - watch.started_at).total_seconds()
        self._metrics.job_ended(watch.op, ending.state, duration, result=ending.result, error=ending.error)
        _log.info(
            "job ended", job_id=watch.job_id, op=watch.op, state=str(ending.state), reason=ending.reason
        )
        shutil.rmtree(watch.folder, ignore_errors=True)
        return ending


def _with_last_words(sentence: str, folder: Path) -> str:
    """Add the last line of the engine's log, where it left one."""
    last = read_last_line(folder / "stderr.log")
    return f"{sentence}: {last}" if last else sentence


def _died(sentence: str, watch: _Watch) -> Ending:
    """Return the end of a job whose engine left no last line."""
    hint = "the guest and the target have to be looked at"
    if watch.state is JobState.COMMITTING:
        hint = "the point of no return had begun: see whether the image is there before starting the domain"
    error = EngineError("engine", _with_last_words(sentence, watch.folder), hint=hint)
    return Ending(state=JobState.FAILED, reason=str(error), error=error.to_dict())


def _lost(reason: str) -> Ending:
    """Return the end of a job that nobody can say anything about."""
    return Ending(state=JobState.LOST, reason=reason, error=EngineError("engine", reason).to_dict())


def _failed_to_start(error: OSError | EngineError) -> Ending:
    """Return the end of a job whose engine could not be started."""
    known = error if isinstance(error, EngineError) else EngineError("engine", f"cannot be started: {error}")
    return Ending(state=JobState.FAILED, reason=str(known), error=known.to_dict())
