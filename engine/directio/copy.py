"""Copy the rest of an image into another file: blocks shared where possible, past the page cache otherwise.

Source: Linux include/uapi/linux/fs.h, FICLONERANGE and struct file_clone_range (xfs, btrfs, NFS 4.2).
Not copy_file_range(2): where the file system cannot share blocks, it copies through the cache.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

from engine.directio.buffers import BufferRing
from engine.directio.target import DirectFile
from engine.errors import StorageError
from engine.units import round_up

_FICLONERANGE: Final = 0x4020940D
#: What the kernel answers where blocks cannot be shared, now or ever.
_CANNOT_SHARE: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}
)


def share_blocks(source: DirectFile, target: DirectFile, offset: int, shift: int) -> bool:
    """Give the target the source's bytes from offset to the end, `shift` further on; tell whether it worked.

    Args:
        source: open for reading.
        target: open for writing; nothing of it is read.
        offset: bytes, multiple of the file system's block size.
        shift: bytes, multiple of the file system's block size.

    Raises:
        OSError: the disk failed; ENOSPC among others.
    """
    request = struct.pack("=qQQQ", source.fd, offset, 0, offset + shift)
    try:
        fcntl.ioctl(target.fd, _FICLONERANGE, request)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def copy_blocks(
    source: DirectFile,
    target: DirectFile,
    offset: int,
    shift: int,
    size: int,
    *,
    on_progress: Callable[[int], None],
) -> None:
    """Write the source's bytes from offset to its end into the target, `shift` further on; holes stay holes.

    Args:
        source: open for reading.
        target: open for writing, of the same block size; longer than wanted afterwards, by its padding.
        offset: bytes, multiple of block_size.
        shift: bytes, multiple of block_size.
        size: length of the source in bytes.
        on_progress: called with the bytes of the source that are behind.

    Raises:
        NoSpaceError, StorageError: a disk failed; the target is not to be used.
    """
    buffer = BufferRing(count=1).take()
    assert buffer is not None
    block_size = max(source.block_size, target.block_size)
    for start, end in _data_ranges(source, offset, size, block_size):
        at = start
        while at < end:
            wanted = min(len(buffer), end - at)
            count = source.read_at(buffer[:wanted], at)
            if count < min(wanted, size - at):
                raise StorageError(
                    str(source.path), f"the file ends at byte {at + count}", f"{size} bytes", "try again"
                )
            padded = round_up(count, block_size)
            # The tail of the last block is cut off later.
            buffer[count:padded] = bytes(padded - count)
            target.write_at(buffer[:padded], at + shift)
            at += padded
            on_progress(min(at, size))


def _data_ranges(file: DirectFile, offset: int, size: int, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is not hole, in order, whole blocks; end may lie beyond the file's end."""
    at = offset
    while at < size:
        try:
            data = os.lseek(file.fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # Nothing but hole from here to the end.
                return
            raise
        start = max(at, data // block_size * block_size)
        at = round_up(os.lseek(file.fd, data, os.SEEK_HOLE), block_size)
        yield start, at
