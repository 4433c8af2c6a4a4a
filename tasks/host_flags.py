"""Read what the control side wants of this host: stop these jobs, take no more of them.

The host may read its own keys in Redis and no others; it never writes one.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from tasks.broker import cancel_key, drain_key
from tasks.journal import Journal

#: Values of the drain key; no key: as before, since a Redis that lost its data says nothing.
DRAIN: Final = "1"
TAKE: Final = "0"
#: Seconds between two looks.
POLL_SECONDS: Final = 1.0
#: The fact of the journal that outlives the worker.
_DRAIN_FACT: Final = "drain"

_log: Final = structlog.get_logger(__name__)


class HostFlags(threading.Thread):
    """Looks each second at the flags of the jobs that run, and of the host.

    Args:
        redis: this thread's own client.
        journal: remembers over a restart that the host is drained.
        host: this host's name.
        has_room: set when the host takes jobs again.
    """

    def __init__(self, redis: Redis, journal: Journal, *, host: str, has_room: threading.Event) -> None:
        super().__init__(name="flags", daemon=True)
        self._redis = redis
        self._journal = journal
        self._host = host
        self._has_room = has_room
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._watched: set[str] = set()
        self._cancelled: set[str] = set()
        self._is_draining = journal.read_fact(_DRAIN_FACT) == DRAIN

    @property
    def is_draining(self) -> bool:
        """True while the host shall take no more jobs."""
        return self._is_draining

    def is_cancelled(self, job_id: str) -> bool:
        """Tell whether somebody was seen to want the job stopped; only of a job that is watched."""
        return job_id in self._cancelled

    @contextmanager
    def watching(self, job_id: str) -> Iterator[None]:
        """Look at the job's flag as long as the block runs."""
        with self._lock:
            self._watched.add(job_id)
        try:
            yield
        finally:
            with self._lock:
                self._watched.discard(job_id)
                self._cancelled.discard(job_id)

    def ask_cancelled(self, job_id: str) -> bool:
        """Look at one job's flag now.

        Raises:
            RedisError: Redis does not answer.
        """
        return self._redis.get(cancel_key(self._host, job_id)) is not None

    def look(self) -> None:
        """Look at all of them once.

        Raises:
            RedisError: Redis does not answer; all stays as it was.
        """
        with self._lock:
            watched = sorted(self._watched)
        keys = [drain_key(self._host), *(cancel_key(self._host, job_id) for job_id in watched)]
        answer: Any = self._redis.mget(keys)
        drain, *flags = answer
        found = {job_id for job_id, flag in zip(watched, flags, strict=True) if flag is not None}
        with self._lock:
            self._cancelled |= found & self._watched
        if drain in {DRAIN, TAKE}:
            self._drain(drain)

    def run(self) -> None:
        """Look until told to stop."""
        is_down = False
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self.look()
            except (RedisError, sqlite3.Error) as error:
                if not is_down:
                    _log.warning("flags cannot be read", error=str(error))
                is_down = True
            else:
                is_down = False

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self.join()
        self._redis.close()

    def _drain(self, drain: str) -> None:
        """Take over whether the host shall take jobs."""
        is_draining = drain == DRAIN
        if is_draining == self._is_draining:
            return
        self._journal.write_fact(_DRAIN_FACT, drain)
        self._is_draining = is_draining
        _log.info("host drains" if is_draining else "host takes jobs again", host=self._host)
        self._has_room.set()
