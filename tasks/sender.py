"""Send what the journal still has to say into the host's event stream, however often Redis goes away."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from tasks.broker import EVENT_FIELD, STREAM_LENGTH_MAX, stream_name
from tasks.host_event import HostEvent
from tasks.journal import Journal

#: Events in one round trip.
_BATCH_COUNT: Final = 500
#: Seconds between two looks without being woken.
_IDLE_SECONDS: Final = 1.0
#: Seconds before the next try while Redis does not answer: doubled each time up to the second.
_RETRY_SECONDS: Final = (0.2, 5.0)

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
        self._sent = threading.Condition()
        self._inventory: HostEvent | None = None
        self._inventory_lock = threading.Lock()

    def publish_inventory(self, event: HostEvent) -> None:
        """Send an inventory as soon as Redis answers; a newer one replaces one that still waits."""
        with self._inventory_lock:
            # The list of domains must not be lost to a newer event that says "as before".
            waiting = self._inventory
            if waiting is not None and event.body["domains"] is None and waiting.body["domains"] is not None:
                event = replace(event, body=event.body | {"domains": waiting.body["domains"]})
            self._inventory = event
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
        """Send the inventory and the outbox until both are empty, or the time is over."""
        self._journal.has_news.clear()
        self._send_inventory()
        while batch := self._journal.list_unsent(_BATCH_COUNT):
            with self._redis.pipeline(transaction=False) as pipeline:
                for entry in batch:
                    pipeline.xadd(
                        self._stream, {EVENT_FIELD: entry.body}, maxlen=STREAM_LENGTH_MAX, approximate=True
                    )
                pipeline.execute()
            self._journal.mark_sent([entry.number for entry in batch])
            with self._sent:
                self._sent.notify_all()
            if deadline is not None and time.monotonic() > deadline:
                return

    def _send_inventory(self) -> None:
        """Send the inventory that waits, if one does."""
        with self._inventory_lock:
            event = self._inventory
        if event is None:
            return
        self._redis.xadd(
            self._stream, {EVENT_FIELD: event.to_json()}, maxlen=STREAM_LENGTH_MAX, approximate=True
        )
        with self._inventory_lock:
            if self._inventory is event:
                self._inventory = None
