"""Hand out page-aligned buffers, a fixed number of them."""

from __future__ import annotations

import mmap
import queue
from typing import Final

from engine.units import MiB

#: Bytes; a multiple of every block size in use and of a huge page.
BUFFER_SIZE: Final = 2 * MiB
#: Buffers of one transfer: memory stays below 32 MiB whatever the guest's size.
BUFFER_COUNT: Final = 12
#: Seconds that a transfer waits for a buffer before it looks whether it should stop.
POLL_SECONDS: Final = 0.2


class BufferRing:
    """A bounded set of aligned buffers that travel between threads.

    They are MAP_SHARED: the kernel pins pages for direct I/O, and a fork in the middle
    of it would give private pages to the wrong process.
    """

    def __init__(self, *, count: int = BUFFER_COUNT, size: int = BUFFER_SIZE) -> None:
        self.size = size
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(count):
            # Unmapped when the last view of it is gone, which an error's traceback may delay.
            self._free.put(memoryview(mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)))

    def take(self, timeout_seconds: float = POLL_SECONDS) -> memoryview | None:
        """Return a free buffer of `size` bytes, None when there was none in time."""
        try:
            return self._free.get(timeout=timeout_seconds)
        except queue.Empty:
            return None

    def give_back(self, buffer: memoryview) -> None:
        """Make a buffer free again; its bytes are no longer anybody's."""
        self._free.put(buffer)
