"""Hold a transfer to so many bytes a second."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """Keeps the average since the first byte at or below a rate."""

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._began: float | None = None
        self._passed = 0

    def wait(self, size: int, pause: Callable[[float], bool]) -> None:
        """Return when size more bytes may have passed, or when the pause says that nobody waits any more.

        Args:
            size: bytes that have just passed.
            pause: waits so many seconds; returns True when there is no more need to wait.
        """
        if self._began is None:
            self._began = self._clock()
        self._passed += size
        while (left := self._began + self._passed / self._rate - self._clock()) > 0:
            if pause(left):
                return
