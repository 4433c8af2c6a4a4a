"""Let jobs that were heard of wait for their turn, claim each when it comes, and run it in a thread.

A doorbell is gone from Redis once it is heard; from then on the journal keeps it. Restores and starts come
before everything else, and an operation that has as many jobs as the host allows keeps none of the others
waiting.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from redis.exceptions import RedisError

from tasks.broker import FIRST_OPERATIONS
from tasks.config import HostSettings
from tasks.ending import failed, stopped
from tasks.envelope import Envelope, parse_envelope
from tasks.errors import DeadlineError
from tasks.host_flags import HostFlags
from tasks.journal import Journal
from tasks.journal_entry import JournalEntry
from tasks.limits import Deadlines
from tasks.metrics import WorkerMetrics
from tasks.sender import EventSender
from tasks.slots import Slots
from tasks.stopping import CANCEL, find_queue_overrun
from tasks.supervisor import Supervisor

#: Seconds between two tries to ask Redis for a flag.
_RETRY_SECONDS: Final = 0.5
#: Seconds before the next try after a journal that could not be read or written.
_JOURNAL_SECONDS: Final = 5.0

_log: Final = structlog.get_logger(__name__)


class Dispatcher(threading.Thread):
    """Starts each waiting job once there is room for it.

    Args:
        settings: of this host.
        journal: keeps those that wait.
        supervisor: runs them.
        sender: tells the control side of each claim.
        flags: what the control side wants.
        slots: how many may run.
        metrics: told of every doorbell.
        has_room: set whenever something may have become possible.
        now: clock, aware.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        journal: Journal,
        supervisor: Supervisor,
        sender: EventSender,
        flags: HostFlags,
        slots: Slots,
        metrics: WorkerMetrics,
        has_room: threading.Event,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(name="dispatcher")
        self._settings = settings
        self._journal = journal
        self._supervisor = supervisor
        self._sender = sender
        self._flags = flags
        self._slots = slots
        self._metrics = metrics
        self._has_room = has_room
        self._now = now
        self._stopping = threading.Event()
        self._jobs: set[threading.Thread] = set()
        self._starting: set[str] = set()

    def answer(self, envelope: Envelope) -> None:
        """Let the job of a doorbell wait for its turn, durably; one that is known is dropped."""
        if not self._journal.hear(envelope):
            self._count("duplicate", envelope)
            return
        self._has_room.set()

    def resume(self, entry: JournalEntry) -> None:
        """Go on with a job that an earlier worker claimed and gave to no engine."""
        envelope = self._read(entry.envelope)
        self._slots.force(envelope.op)
        self._start_thread(envelope, self._go_on)

    def run(self) -> None:
        """Start jobs until told to stop."""
        while not self._stopping.is_set():
            self._has_room.clear()
            try:
                while not self._stopping.is_set() and (envelope := self._take_next()) is not None:
                    self._start_thread(envelope, self._begin)
            except sqlite3.Error as error:
                _log.error("journal cannot be read", error=str(error))
                self._stopping.wait(_JOURNAL_SECONDS)
                continue
            self._has_room.wait()

    def stop_taking(self) -> None:
        """Start no more jobs; those that wait stay in the journal for the next worker."""
        self._stopping.set()
        self._has_room.set()

    def stop(self) -> None:
        """End the thread and wait for the jobs that run."""
        self.stop_taking()
        if self.is_alive():
            self.join()
        for thread in list(self._jobs):
            thread.join()

    def _take_next(self) -> Envelope | None:
        """Return the job whose turn it is, its place taken; None: nothing can run now."""
        if self._flags.is_draining:
            return None
        waiting = [one for one in self._journal.list_waiting() if one.job_id not in self._starting]
        for one in sorted(waiting, key=lambda one: one.op not in FIRST_OPERATIONS):
            if self._slots.take(one.op):
                text = self._journal.take_waiting(one.job_id)
                if text is not None:
                    return self._read(text)
                self._slots.give_back(one.op)
        return None

    def _start_thread(self, envelope: Envelope, work: Callable[[Envelope], None]) -> None:
        """Work on a job in a thread of its own, which gives the job's place back."""

        def run() -> None:
            try:
                work(envelope)
            except sqlite3.Error as error:
                # A full disk, most likely. The job is where it was: waiting, or claimed for the next worker.
                _log.error("journal cannot be written", job_id=envelope.job_id, error=str(error))
                self._stopping.wait(_JOURNAL_SECONDS)
            finally:
                self._starting.discard(envelope.job_id)
                self._jobs.discard(threading.current_thread())
                self._slots.give_back(envelope.op)

        # Not a daemon: a warm shutdown waits for what runs.
        thread = threading.Thread(target=run, name=f"job-{envelope.job_id}")
        self._starting.add(envelope.job_id)
        self._jobs.add(thread)
        thread.start()

    def _begin(self, envelope: Envelope) -> None:
        """Claim a job whose turn has come, and go on with it."""
        if envelope.expires_at <= self._now():
            # It is rung for again; what was signed is good for so long and no longer.
            self._journal.forget_waiting(envelope.job_id)
            self._count("expired", envelope)
        elif not self._journal.claim(envelope):
            self._count("duplicate", envelope)
        else:
            self._go_on(envelope)

    def _go_on(self, envelope: Envelope) -> None:
        """Run a job that is claimed, unless it has waited for too long or nobody wants it any more."""
        is_wanted = self._confirm(envelope.job_id)
        if is_wanted is None:
            return
        self._count("claimed" if is_wanted else "cancelled", envelope)
        if not is_wanted:
            self._supervisor.close_unstarted(envelope, stopped(CANCEL, "nothing had been started"))
        elif (overrun := self._find_overrun(envelope)) is not None:
            error = DeadlineError("job", overrun, hint="nothing was started; submit it again")
            self._supervisor.close_unstarted(envelope, failed(error))
        else:
            with self._flags.watching(envelope.job_id):
                self._supervisor.run(envelope)

    def _confirm(self, job_id: str) -> bool | None:
        """Have the claim known, then ask whether the job is still wanted; None: the worker ends before.

        In this order. Who cancels sets the flag first and looks for the claim then: whatever happens at
        once, either we see the flag or the claim is seen, and a job that counts as never claimed never runs.
        """
        if not self._sender.wait_sent(job_id, self._stopping.is_set):
            return None
        while not self._stopping.is_set():
            try:
                return not self._flags.ask_cancelled(job_id)
            except RedisError:
                self._stopping.wait(_RETRY_SECONDS)
        return None

    def _find_overrun(self, envelope: Envelope) -> str | None:
        """Return what is wrong with the time that the job has waited, if anything is."""
        deadlines = self._settings.find_deadlines(envelope.op).tightened(Deadlines.of(envelope.params))
        since = envelope.params.get("queued_at")
        queued_at = datetime.fromisoformat(since) if since else envelope.issued_at
        return find_queue_overrun((self._now() - queued_at).total_seconds(), deadlines)

    def _read(self, text: str) -> Envelope:
        """Return the envelope that the journal keeps; it was checked when it was heard."""
        return parse_envelope(text.encode(), host=self._settings.name, now=None)

    def _count(self, result: str, envelope: Envelope) -> None:
        """Count and log what became of a doorbell."""
        self._metrics.doorbells.labels(result=result).inc()
        _log.info(
            f"doorbell {result}", job_id=envelope.job_id, op=envelope.op, domain=envelope.domain,
            attempt=envelope.attempt,
        )  # fmt: skip
