"""Count what a transfer left in the page cache.

Source: cachestat(2) since Linux 6.5, else mincore(2).
"""

from __future__ import annotations

import errno
import mmap
import os

from engine.directio.syscalls import cachestat_pages, mincore_pages


def resident_bytes(fd: int) -> int:
    """Return how many bytes of the open file are in the page cache, whole pages.

    Raises:
        OSError: neither cachestat nor mincore works on this file.
    """
    try:
        pages = cachestat_pages(fd)
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
            raise
        pages = mincore_pages(fd, os.fstat(fd).st_size)
    return pages * mmap.PAGESIZE


def drop_clean_pages(fd: int, offset: int = 0) -> None:
    """Ask the kernel to forget the file's clean pages from offset on; dirty ones stay until synced."""
    os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_DONTNEED)
