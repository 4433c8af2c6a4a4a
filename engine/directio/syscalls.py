"""Call what Linux has and Python's os module has not: cachestat, mincore, statx, renameat2.

Source: Linux include/uapi/linux/mman.h (struct cachestat), linux/stat.h (struct statx),
linux/fs.h (RENAME_NOREPLACE); asm/unistd_64.h for the number of cachestat.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
#: The same on every architecture: system calls since 5.x share one table.
_NR_CACHESTAT: Final = 451
_RENAME_NOREPLACE: Final = 1
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_STATX_DIOALIGN: Final = 0x2000
_STATX_SIZE: Final = 256
#: Offset of stx_dio_mem_align; stx_dio_offset_align follows it.
_DIO_ALIGN_OFFSET: Final = 0x98


class _CachestatRange(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    )


def _raise_errno(path: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), path)


def cachestat_pages(fd: int) -> int:
    """Return how many pages of the open file are in the page cache, dirty ones included.

    Raises:
        OSError: ENOSYS before Linux 6.5; EOPNOTSUPP on hugetlbfs.
    """
    span, found = _CachestatRange(0, 0), _Cachestat()
    arguments = (ctypes.c_uint(fd), ctypes.byref(span), ctypes.byref(found), ctypes.c_uint(0))
    if _libc.syscall(ctypes.c_long(_NR_CACHESTAT), *arguments) != 0:
        _raise_errno(f"fd {fd}")
    return int(found.cache)


def mincore_pages(fd: int, size: int) -> int:
    """Return how many pages of the file's first `size` bytes are in the page cache.

    Raises:
        OSError: the file cannot be mapped.
    """
    if size == 0:
        return 0
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address in {None, ctypes.c_void_p(-1).value}:
        _raise_errno(f"fd {fd}")
    try:
        pages = -(-size // mmap.PAGESIZE)
        resident = (ctypes.c_ubyte * pages)()
        if _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), resident) != 0:
            _raise_errno(f"fd {fd}")
        return sum(page & 1 for page in bytes(resident))
    finally:
        _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


def direct_io_alignment(fd: int) -> tuple[int, int] | None:
    """Return the alignment of memory and of offsets that O_DIRECT wants on this file, bytes.

    (0, 0) means that the file does not do direct I/O at all; None that the kernel
    (before 6.1) or the file system does not say.
    """
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if not hasattr(_libc, "statx"):
        return None
    if _libc.statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, buffer) != 0:
        return None
    mask = int.from_bytes(buffer.raw[:4], "little")
    if not mask & _STATX_DIOALIGN:
        return None
    at = _DIO_ALIGN_OFFSET
    return int.from_bytes(buffer.raw[at : at + 4], "little"), int.from_bytes(
        buffer.raw[at + 4 : at + 8], "little"
    )


def reserve_space(fd: int, size: int) -> None:
    """Allocate the file's first `size` bytes without writing them.

    Not posix_fallocate: where the file system cannot do it, glibc would write every
    block through the page cache instead of saying so.

    Raises:
        OSError: ENOSPC; EOPNOTSUPP where the file system cannot do it.
    """
    _libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if _libc.fallocate(fd, 0, 0, size) != 0:
        _raise_errno(f"fd {fd}")


def rename_exclusively(source: Path, target: Path) -> None:
    """Rename a file or directory; refuse, in the same instant, a target that exists.

    Raises:
        FileExistsError: the target exists; both are untouched.
        OSError: any other failure; both are untouched.
    """
    names = os.fsencode(source), os.fsencode(target)
    if _libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL or source.is_dir():
        _raise_errno(str(target))
    # A file system without RENAME_NOREPLACE: link() refuses as atomically.
    os.link(source, target, follow_symlinks=False)
    source.unlink()
