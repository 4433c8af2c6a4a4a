"""Send what the journal still has to say into the host's event stream, however often Redis goes away."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from tasks.broker import EVENT_FIELD, STREAM_LENGTH_MAX, stream_name
from tasks.host_event import EventKind, HostEvent
from tasks.journal import Journal

#: Events in one round trip.
_BATCH_COUNT: Final = 500
#: Seconds between two looks without being woken.
_IDLE_SECONDS: Final = 1.0
#: Seconds before the next try while Redis does not answer: doubled each time up to the second.
_RETRY_SECONDS: Final = (0.2, 5.0)
#: Jobs that ended longer ago are not told again when the stream is lost: whoever misses them asks.
_RETELL: Final = timedelta(days=1)
#: Answers that wait at most; whoever asked asks again.
_UNKNOWN_MAX: Final = 1000

#: Parts of an inventory that are null where nothing has changed.
_AT_LENGTH: Final = ("domains", "capabilities")

_log: Final = structlog.get_logger(__name__)


class EventSender(threading.Thread):
    """Appends events at least once, in order; the journal keeps each until Redis has taken it.

    Args:
        journal: of this host; its outbox is emptied.
        redis: this thread's own client.
        host: this host's name.
    """

    def __init__(self, journal: Journal, redis: Redis, *, host: str) -> None:
        super().__init__(name="event-sender", daemon=True)
        self._journal = journal
        self._redis = redis
        self._stream = stream_name(host)
        self._stopping = threading.Event()
        self._host = host
        self._unknown: deque[HostEvent] = deque(maxlen=_UNKNOWN_MAX)
        self._sent = threading.Condition()
        self._inventory: HostEvent | None = None
        #: The last inventory that was sent with a list of domains.
        self._domains_sent: HostEvent | None = None
        self._repeats_domains = False
        self._inventory_lock = threading.Lock()

    def publish_inventory(self, event: HostEvent) -> None:
        """Send an inventory as soon as Redis answers; a newer one replaces one that still waits."""
        with self._inventory_lock:
            # What was said at length must not be lost to a newer event that says "as before".
            waiting = self._inventory.body if self._inventory is not None else {}
            kept = {key: waiting.get(key) for key in _AT_LENGTH if event.body.get(key) is None}
            self._inventory = replace(event, body=event.body | kept)
        self._journal.has_news.set()

    def publish_unknown(self, job_id: str, attempt: int) -> None:
        """Say that the host does not know an attempt of a job it was asked about."""
        self._unknown.append(
            HostEvent(
                host=self._host, kind=EventKind.UNKNOWN, at=datetime.now(UTC), body={}, job_id=job_id,
                attempt=attempt,
            )
        )  # fmt: skip
        self._journal.has_news.set()

    def wait_sent(self, job_id: str, is_over: Callable[[], bool]) -> bool:
        """Wait until all that was said of the job is in the stream; False: it is over before.

        Args:
            job_id: the job.
            is_over: looked at each second, while Redis does not answer.
        """
        with self._sent:
            while self._journal.has_unsent(job_id):
                if is_over():
                    return False
                self._sent.wait(_IDLE_SECONDS)
        return True

    def run(self) -> None:
        """Send until told to stop."""
        delay, longest = _RETRY_SECONDS
        is_down = False
        while not self._stopping.is_set():
            try:
                self._send_all()
            except (RedisError, sqlite3.Error) as error:
                if not is_down:
                    who = "Redis" if isinstance(error, RedisError) else "the journal"
                    _log.warning("events wait", reason=f"{who} does not answer", error=str(error))
                is_down = True
                self._stopping.wait(delay)
                delay = min(delay * 2, longest)
                continue
            if is_down:
                _log.info("events flow again")
            delay, is_down = _RETRY_SECONDS[0], False
            self._journal.has_news.wait(_IDLE_SECONDS)

    def stop(self, flush_seconds: float) -> None:
        """End the thread, then send what is left; what Redis does not take in time waits in the journal."""
        self._stopping.set()
        self._journal.has_news.set()
        self.join()
        deadline = time.monotonic() + flush_seconds
        try:
            self._send_all(deadline)
        except RedisError as error:
            _log.warning("events left in the journal", error=str(error))
        self._redis.close()

    def _send_all(self, deadline: float | None = None) -> None:
        """Send outbox, answers and inventory until all are empty, or the time is over.

        In this order: an inventory never overtakes what was journaled before it was taken, so whoever reads
        that a domain is gone has read what its last job did.
        """
        self._journal.has_news.clear()
        with self._inventory_lock:
            inventory = self._inventory
        unknown = list(self._unknown)
        while batch := self._journal.list_unsent(_BATCH_COUNT):
            self._append([entry.body for entry in batch])
            self._journal.mark_sent([entry.number for entry in batch])
            with self._sent:
                self._sent.notify_all()
            if deadline is not None and time.monotonic() > deadline:
                return
        if unknown:
            self._append([event.to_json() for event in unknown])
            for _ in unknown:
                self._unknown.popleft()
        if self._repeats_domains and self._domains_sent is not None:
            self._append([self._domains_sent.to_json()])
        self._repeats_domains = False
        if inventory is not None:
            self._send_inventory(inventory)

    def _send_inventory(self, event: HostEvent) -> None:
        """Send an inventory; one that came meanwhile waits for the next turn."""
        self._append([event.to_json()])
        with self._inventory_lock:
            if event.body["domains"] is not None:
                self._domains_sent = event
            if self._inventory is event:
                self._inventory = None

    def _append(self, bodies: Sequence[str]) -> None:
        """Append entries to the stream; if it is not there, have all be said again that it may have held."""
        if self._add(bodies, makes_stream=False):
            return
        count = self._journal.tell_all_again(since=datetime.now(UTC) - _RETELL)
        _log.info("event stream begins anew", stream=self._stream, told_again=count)
        self._repeats_domains = True
        self._journal.has_news.set()
        self._add(bodies, makes_stream=True)

    def _add(self, bodies: Sequence[str], *, makes_stream: bool) -> bool:
        """Append entries in one round trip; tell whether the stream was there."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for body in bodies:
                pipeline.xadd(
                    self._stream,
                    {EVENT_FIELD: body},
                    maxlen=STREAM_LENGTH_MAX,
                    approximate=True,
                    nomkstream=not makes_stream,
                )
            return None not in pipeline.execute()
