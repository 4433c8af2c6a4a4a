"""Read an image ahead and hand it on in order; the last bytes only once all of it is proven."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Final

from engine.cancel import CancelToken
from engine.checksum import PART_SIZE, Checksum
from engine.directio.buffers import BufferRing
from engine.directio.checksum import StreamChecksum
from engine.directio.target import DirectFile
from engine.errors import ChecksumError, ImageIncompleteError
from engine.units import MiB, round_up

#: Reads in flight at one time.
READER_COUNT: Final = 3
#: Bytes at the end that are kept back until the checksum has matched. QEMU would start
#: the guest without the stream's last few KiB (a JSON description that it skips), so
#: this must be far more than that.
HOLD_BACK_SIZE: Final = 4 * MiB


def read_stream(
    source: DirectFile,
    size: int,
    ring: BufferRing,
    *,
    expected: Checksum | None,
    deliver: Callable[[memoryview], None],
    before_last: Callable[[], None],
    on_progress: Callable[[int], None],
    cancel: CancelToken,
) -> Checksum:
    """Hand the file's bytes to `deliver` in order, read ahead past the page cache.

    Args:
        source: the open image.
        size: its length in bytes.
        ring: buffers, all of them free; more than HOLD_BACK_SIZE together.
        expected: checksums that the bytes must have; None where nobody knows them.
        deliver: takes bytes, which are its own only until it returns.
        before_last: called when all is proven and only the held-back bytes are left.
        on_progress: called with the bytes delivered so far.
        cancel: looked at between buffers.

    Returns: the checksums of what was read.

    Raises:
        ChecksumError: a part is not what was written; the last HOLD_BACK_SIZE bytes were not delivered.
        ImageIncompleteError: the file ends before `size`.
        StorageError: the disk failed.
    """
    checksum = StreamChecksum()
    held: deque[tuple[memoryview, int]] = deque()
    hold_count = -(-HOLD_BACK_SIZE // ring.size) + 1
    delivered = 0

    def deliver_oldest() -> None:
        nonlocal delivered
        buffer, length = held.popleft()
        deliver(buffer[:length])
        ring.give_back(buffer)
        delivered += length
        on_progress(delivered)

    with closing(_read_in_order(source, size, ring, cancel)) as filled:
        for buffer, length in filled:
            checksum.update(buffer[:length])
            held.append((buffer, length))
            if len(held) > hold_count:
                deliver_oldest()
    found = checksum.finish()
    if expected is not None:
        check_parts(found, expected, str(source.path))
    before_last()
    while held:
        deliver_oldest()
    return found


def _read_in_order(
    source: DirectFile, size: int, ring: BufferRing, cancel: CancelToken
) -> Generator[tuple[memoryview, int], None, None]:
    """Yield (buffer, bytes in it) from offset 0 to size, READER_COUNT reads ahead."""
    ahead: deque[tuple[memoryview, int, Future[int]]] = deque()
    offset = 0
    with ThreadPoolExecutor(READER_COUNT, thread_name_prefix="read") as pool:
        while offset < size or ahead:
            while offset < size and len(ahead) < READER_COUNT:
                buffer = ring.take()
                assert buffer is not None, "the ring holds more buffers than are held back and read ahead"
                length = min(ring.size, size - offset)
                wanted = min(ring.size, round_up(length, source.block_size))
                ahead.append((buffer, length, pool.submit(source.read_at, buffer[:wanted], offset)))
                offset += length
            cancel.raise_if_cancelled(str(source.path))
            buffer, length, read = ahead.popleft()
            if read.result() < length:
                raise ImageIncompleteError(
                    str(source.path), "the file ends early", f"{size} bytes", "restore an earlier image"
                )
            yield buffer, length


def check_parts(found: Checksum, expected: Checksum, path: str) -> None:
    """Compare checksums, name the damaged parts.

    Raises:
        ChecksumError: they differ.
    """
    if found == expected:
        return
    damaged = [
        str(number)
        for number in range(max(len(found.parts), len(expected.parts)))
        if found.parts[number : number + 1] != expected.parts[number : number + 1]
    ]
    raise ChecksumError(
        path,
        f"damaged in part {', '.join(damaged) or 'unknown'} of {PART_SIZE // MiB} MiB each",
        f"{expected.algorithm} {expected.value[:16]}...",
        "the image is not what was saved: restore another restore point",
    )
