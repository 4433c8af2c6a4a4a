"""Run one engine process for one job: journal what it says, and what became of it."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from engine.errors import EngineError
from tasks.config import HostSettings, engine_environment
from tasks.ending import (
    Ending,
    died,
    failed_to_start,
    lost,
    put_back,
    refused,
    stopped,
    succeeded,
    with_last_words,
)
from tasks.envelope import Envelope
from tasks.event_file import EventFile
from tasks.host_event import EventKind
from tasks.journal import Journal
from tasks.journal_entry import JournalEntry
from tasks.leftovers import Leftovers, Remains
from tasks.limits import Deadlines
from tasks.metrics import WorkerMetrics
from tasks.process import EngineProcess
from tasks.request import build_request
from tasks.states import JobState
from tasks.stopping import Measure, Stopping
from tasks.watch import Watch

ENGINE_COMMAND: Final = (sys.executable, "-m", "engine")
#: Seconds between two looks at the event file; the end of the process is noticed at once.
_POLL_SECONDS: Final = 0.1
#: Seconds between two reports of progress.
_PROGRESS_SECONDS: Final = 1.0
#: Seconds an engine may take to end after its last line.
_EXIT_SECONDS: Final = 10.0
#: Seconds that are spent on a dead engine's job that cannot be decided: libvirt may be starting again.
_SETTLE_SECONDS: Final = 600.0
#: Seconds between two tries.
_SETTLE_PAUSE_SECONDS: Final = 1.0

_log: Final = structlog.get_logger(__name__)


class Supervisor:
    """Starts and follows engines; one call for each job, in any thread.

    Args:
        journal: of this host.
        settings: of this host.
        metrics: told of every job.
        leftovers: puts right what dead engines leave.
        command: what to run as the engine.
        is_cancelled: tells whether somebody wants a running job stopped.
        now: clock, aware.
        monotonic: seconds on a clock that never jumps.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        settings: HostSettings,
        metrics: WorkerMetrics,
        leftovers: Leftovers | None = None,
        command: Sequence[str] = ENGINE_COMMAND,
        is_cancelled: Callable[[str], bool] = lambda _job_id: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._metrics = metrics
        self._leftovers = leftovers or Leftovers(settings, metrics)
        self._stopping = threading.Event()
        self._command = command
        self._is_cancelled = is_cancelled
        self._now = now
        self._monotonic = monotonic

    @property
    def jobs_folder(self) -> Path:
        """Return the directory that holds one folder for each unfinished job."""
        return self._settings.state_dir / "jobs"

    def stop_settling(self) -> None:
        """Leave jobs that cannot be decided yet to the next worker: they stay unfinished."""
        self._stopping.set()

    def run(self, envelope: Envelope) -> Ending | None:
        """Run the engine for a job that was claimed, to its end.

        Returns: None where the engine died and nobody can tell yet what became of the job.
        """
        watch = self._watch(envelope.job_id, envelope.op, envelope.params, JobState.QUEUED)
        self._metrics.queue_wait(envelope.op, (watch.started_at - envelope.issued_at).total_seconds())
        with self._metrics.running(envelope.op):
            try:
                process = self._start(watch, envelope)
            except (OSError, EngineError) as error:
                return self._close(watch, failed_to_start(error))
            return self._follow(watch, process)

    def close_unstarted(self, envelope: Envelope, ending: Ending) -> Ending:
        """Close a job that was claimed and shall not run."""
        return self._close(
            self._watch(envelope.job_id, envelope.op, envelope.params, JobState.QUEUED), ending
        )

    def adopt(self, entry: JournalEntry, process: EngineProcess) -> Ending | None:
        """Follow an engine that an earlier worker started, to its end; None as for `run`."""
        watch = self._watch_entry(entry)
        with self._metrics.running(entry.op):
            return self._follow(watch, process)

    def close_dead(self, entry: JournalEntry, *, patience_seconds: float = _SETTLE_SECONDS) -> Ending | None:
        """Close a job whose engine is gone: with its last line, by what it left, else as lost.

        Args:
            entry: the job.
            patience_seconds: to spend on finding out.

        Returns: None where nobody can tell yet; the job stays unfinished.
        """
        # A try before this one may have taken over more.
        watch = self._watch_entry(self._journal.find(entry.job_id) or entry)
        self._take_over(watch)
        if watch.ending is not None:
            return self._close(watch, watch.ending)
        sentence = "neither the engine nor its worker lived to say what happened"
        unknown = lost(with_last_words(sentence, watch.folder))
        ending = self._settle(watch, sentence, unknown, patience_seconds)
        return None if ending is None else self._close(watch, ending)

    def _watch(self, job_id: str, op: str, params: Mapping[str, Any], state: JobState) -> Watch:
        """Return the record of a job that starts now."""
        folder = self.jobs_folder / job_id
        return Watch(
            job_id=job_id,
            op=op,
            params=params,
            folder=folder,
            state=state,
            events=EventFile(folder / "events.jsonl"),
            started_at=self._now(),
        )

    def _watch_entry(self, entry: JournalEntry) -> Watch:
        """Return the record of a job that an earlier worker began."""
        watch = self._watch(entry.job_id, entry.op, json.loads(entry.envelope)["params"], entry.state)
        watch.events = EventFile(watch.folder / "events.jsonl", entry.read_offset)
        watch.recall(entry.read_offset)
        watch.started_at = entry.started_at or entry.claimed_at
        return watch

    def _start(self, watch: Watch, envelope: Envelope) -> EngineProcess:
        """Start the engine; when this returns, the journal says that the job runs."""
        request = build_request(envelope, self._settings).to_json()
        watch.folder.mkdir(mode=0o700, parents=True)

        def note(pid: int, start_ticks: int) -> None:
            self._journal.record_start(watch.job_id, pid=pid, start_ticks=start_ticks)
            watch.state = JobState.RUNNING

        return EngineProcess.start(
            self._command, request, folder=watch.folder, environment=engine_environment(), on_started=note
        )

    def _follow(self, watch: Watch, process: EngineProcess) -> Ending | None:
        """Take over what the engine says until it has ended; put right what one leaves that has died."""
        deadline: float | None = None
        stopping = Stopping(
            self._deadlines(watch),
            now=self._monotonic(),
            elapsed=(self._now() - watch.started_at).total_seconds(),
        )
        try:
            while not process.wait_exit(_POLL_SECONDS):
                if self._take_over(watch):
                    stopping.note_move(self._monotonic())
                if watch.ending is None:
                    self._stop_if_wanted(watch, process, stopping)
                    continue
                # It has said its last line; it holds the domain's lock until it is gone.
                deadline = deadline or time.monotonic() + _EXIT_SECONDS
                if time.monotonic() > deadline:
                    _log.warning("engine does not end", job_id=watch.job_id, pid=process.pid)
                    process.kill()
            self._take_over(watch)
            ending = watch.ending
            sentence = "" if ending else process.describe_exit()
        finally:
            process.close()
        if ending is None:
            ending = self._settle_dead(watch, sentence, stopping)
        elif ending.state is JobState.CANCELLED and stopping.wish is not None:
            ending = stopped(stopping.wish)
        return None if ending is None else self._close(watch, ending)

    def _deadlines(self, watch: Watch) -> Deadlines:
        """Return what holds for the job: the host's word and its own, whichever is shorter."""
        return self._settings.find_deadlines(watch.op).tightened(Deadlines.of(watch.params))

    def _stop_if_wanted(self, watch: Watch, process: EngineProcess, stopping: Stopping) -> None:
        """Tell the engine to stop, or end it, if somebody wants the job stopped or its time is over."""
        measure = stopping.judge(
            now=self._monotonic(),
            is_cancelled=self._is_cancelled(watch.job_id),
            is_committing=watch.state is JobState.COMMITTING,
        )
        if measure is Measure.NOTHING:
            return
        assert stopping.wish is not None
        _log.info(
            "engine told to stop" if measure is Measure.ASK else "engine killed: it does not stop",
            job_id=watch.job_id,
            pid=process.pid,
            reason=stopping.wish.sentence,
        )
        if measure is Measure.ASK:
            process.terminate()
        else:
            process.kill()

    def _settle_dead(self, watch: Watch, sentence: str, stopping: Stopping) -> Ending | None:
        """Put right what an engine left that said nothing at its end; return how its job ended by that."""
        wish = stopping.wish
        unknown = died(sentence, watch.folder, is_committing=watch.state is JobState.COMMITTING)
        if wish is not None and not watch.has_touched:
            unknown = stopped(wish, "the engine had touched nothing")
        ending = self._settle(watch, sentence, unknown, _SETTLE_SECONDS)
        if wish is not None and ending is not None and ending.is_put_back:
            return stopped(wish, "the engine was killed, and what it left was put right")
        return ending

    def _settle(self, watch: Watch, sentence: str, unknown: Ending, patience_seconds: float) -> Ending | None:
        """Put right what a dead engine left; return how its job ended by that.

        Args:
            watch: the job.
            sentence: how the engine died.
            unknown: the end of the job where nothing tells more.
            patience_seconds: to spend on what cannot be decided at once.
        """
        self._journal.record_event(watch.job_id, EventKind.STEP, {"step": "recover"})
        deadline = time.monotonic() + patience_seconds
        while True:
            remains = self._leftovers.settle(watch.job_id, watch.op, watch.target)
            if remains.outcome is not None:
                return succeeded(remains.outcome.to_dict())
            if not remains.undecided:
                break
            if self._stopping.wait(min(_SETTLE_PAUSE_SECONDS, max(0.0, deadline - time.monotonic()))):
                return None
            if time.monotonic() >= deadline:
                return None if patience_seconds < _SETTLE_SECONDS else _undecided(sentence, remains)
        if remains.was_put_back:
            details = "; ".join(one.detail for one in remains.recoveries)
            return put_back(sentence, watch.folder, details)
        return unknown

    def _take_over(self, watch: Watch) -> bool:
        """Journal what the engine has written since the last look; tell whether it came further."""
        before = (watch.bytes_done, len(watch.steps))
        if events := list(watch.events.read_new()):
            with self._journal.batch():
                for event, offset in events:
                    self._take_event(watch, event, offset)
        if watch.progress is not None and time.monotonic() - watch.progress_at >= _PROGRESS_SECONDS:
            self._report_progress(watch)
        return before != (watch.bytes_done, len(watch.steps))

    def _take_event(self, watch: Watch, event: dict[str, Any], offset: int) -> None:
        """Journal one event of the engine."""
        if event["event"] == "step":
            watch.steps.add(str(event.get("step")))
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
                watch.bytes_done = done
            case {"event": "result", "result": dict(result)}:
                watch.ending = succeeded(result)
            case {"event": "error", "error": dict(error)}:
                watch.ending = refused(error)
            case _:
                _log.debug("engine event passed over", job_id=watch.job_id, engine_event=event.get("event"))

    def _report_progress(self, watch: Watch) -> None:
        """Put the newest progress into the outbox."""
        if watch.progress is not None:
            self._journal.record_event(watch.job_id, EventKind.PROGRESS, watch.progress)
            watch.progress, watch.progress_at = None, time.monotonic()

    def _close(self, watch: Watch, ending: Ending) -> Ending:
        """Journal the end, count it, and clear the job's folder."""
        self._report_progress(watch)
        if ending.state is JobState.SUCCEEDED and watch.state is JobState.RUNNING:
            # An engine may have nothing that it could not take back; the states stay the same for all.
            self._journal.record_state(watch.job_id, JobState.COMMITTING, reason=None)
        body: dict[str, Any] = {"error": ending.error}
        if ending.result is not None:
            body = {"result": ending.result}
        if ending.state is JobState.FAILED and (ending.error or {}).get("transient") is True:
            body["repeatable"] = watch.may_repeat
        self._journal.record_state(watch.job_id, ending.state, reason=ending.reason, **body)
        duration = (self._now() - watch.started_at).total_seconds()
        self._metrics.job_ended(watch.op, ending.state, duration, result=ending.result, error=ending.error)
        _log.info(
            "job ended", job_id=watch.job_id, op=watch.op, state=str(ending.state), reason=ending.reason
        )
        shutil.rmtree(watch.folder, ignore_errors=True)
        return ending


def _undecided(sentence: str, remains: Remains) -> Ending:
    """Return the end of a job that could not be decided in all the time there was."""
    kept = ", ".join(one.path for one in remains.recoveries if one.path)
    return lost(
        f"{sentence}; what became of the guest cannot be found out: {remains.undecided}",
        f"what the engine left is kept in {kept or 'its staging directory'}; fleetsave doctor looks again",
    )
