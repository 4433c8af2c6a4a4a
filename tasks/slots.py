"""Count what a host runs at once: so many jobs in all, and of some operations fewer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Slots:
    """Permits to run a job; safe in threads.

    Args:
        parallel: jobs at a time.
        limits: operation -> jobs of it at a time; one that is not here is bounded by `parallel` alone.
        has_room: set whenever a permit came back.
    """

    def __init__(self, parallel: int, limits: Mapping[str, int], has_room: threading.Event) -> None:
        self._parallel = parallel
        self._limits = dict(limits)
        self._has_room = has_room
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()

    def take(self, op: str) -> bool:
        """Take a permit if there is one."""
        with self._lock:
            is_full = self._running.total() >= self._parallel
            if is_full or self._running[op] >= self._limits.get(op, self._parallel):
                return False
            self._running[op] += 1
            return True

    def force(self, op: str) -> None:
        """Take a permit for a job that runs already, whether there is one or not."""
        with self._lock:
            self._running[op] += 1

    def give_back(self, op: str) -> None:
        """Give a permit back."""
        with self._lock:
            self._running[op] -= 1
        self._has_room.set()
