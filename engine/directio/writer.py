"""Write a stream of unknown length to a file: aligned, several blocks in flight, checksummed.

One loop reads, several threads write, one thread takes the checksum in order and gives
the buffers back. Everything is bounded by the number of buffers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self

from engine.cancel import CancelToken
from engine.checksum import Checksum
from engine.directio.buffers import BufferRing
from engine.directio.checksum import StreamChecksum
from engine.directio.feed import Feed
from engine.directio.ratelimit import RateLimit
from engine.directio.target import DirectFile
from engine.units import round_up

#: Writes in flight at one time.
WRITER_COUNT: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenStream:
    """What is in the file after a stream has ended; not synced yet."""

    #: True length of the stream; the file is longer by its padding until it is cut.
    size: int
    #: Of the finished file, whose first block is `final_block`.
    checksum: Checksum
    #: What has to stand at offset 0 once the image is complete; one block.
    final_block: bytes


def write_stream(
    source: Feed,
    target: DirectFile,
    ring: BufferRing,
    *,
    finish_block: Callable[[bytes], bytes],
    on_progress: Callable[[int], None],
    cancel: CancelToken,
    limit: RateLimit | None = None,
) -> WrittenStream:
    """Write everything that a feed gives to the file, from offset 0.

    Args:
        source: gives the image in order.
        target: the open file; buffers of the ring are multiples of its block_size.
        ring: buffers, all of them free.
        finish_block: given the first block as it came, returns it as it shall be in the
            finished image; the checksum covers the latter, the file gets the former.
        on_progress: called with the bytes read so far.
        cancel: looked at between buffers.
        limit: most bytes a second; None = as fast as it goes.

    Raises:
        StorageError, NoSpaceError: the file could not be written; the stream was not read to its end.
        CancelledError: somebody asked to stop.
    """
    retirer = _Retirer(ring, finish_block, target.block_size)
    size = 0
    with retirer, ThreadPoolExecutor(WRITER_COUNT, thread_name_prefix="write") as pool:
        while True:
            buffer = ring.take()
            retirer.raise_failure()
            if buffer is None:
                cancel.raise_if_cancelled(str(target.path))
                continue
            filled = source.fill(buffer)
            if filled:
                padded = round_up(filled, target.block_size)
                # O_DIRECT takes whole blocks: pad the tail, the file is cut later.
                buffer[filled:padded] = bytes(padded - filled)
                retirer.put(buffer, filled, pool.submit(target.write_at, buffer[:padded], size))
                size += filled
                on_progress(size)
                if limit is not None:
                    limit.wait(filled, cancel.wait)
                    cancel.raise_if_cancelled(str(target.path))
            if filled < ring.size:
                break
    retirer.raise_failure()
    return WrittenStream(size=size, checksum=retirer.checksum.finish(), final_block=retirer.final_block)


class _Retirer:
    """Takes written buffers in stream order: checksum, wait for the write, give back."""

    def __init__(self, ring: BufferRing, finish_block: Callable[[bytes], bytes], block_size: int) -> None:
        self.checksum = StreamChecksum()
        self.final_block = b""
        self._ring = ring
        self._finish_block = finish_block
        self._block_size = block_size
        self._queue: queue.SimpleQueue[tuple[memoryview, int, Future[None]] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checksum", daemon=True)

    def put(self, buffer: memoryview, filled: int, write: Future[None]) -> None:
        """Take over a buffer whose first `filled` bytes are being written."""
        self._queue.put((buffer, filled, write))

    def raise_failure(self) -> None:
        """Raise what went wrong in a thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            buffer, filled, write = item
            try:
                if self._failure is None:
                    self._take_checksum(buffer[:filled])
                write.result()
            except Exception as error:  # noqa: BLE001 - whatever it is, the reading loop raises it
                self._failure = self._failure or error
            self._ring.give_back(buffer)

    def _take_checksum(self, data: memoryview) -> None:
        if not self.final_block:
            self.final_block = self._finish_block(bytes(data[: self._block_size]))
            self.checksum.update(self.final_block)
            data = data[self._block_size :]
        self.checksum.update(data)
