"""Look at the file or block device behind a disk, and leave nothing of it in the page cache.

Source: ioctl_iflags(2) and linux/fs.h, FS_IOC_GETVERSION.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.directio.buffers import BufferRing
from engine.directio.target import DirectFile, open_direct
from engine.disks.writes import Writes, read_writes
from engine.errors import EngineError, ImageFormatError
from engine.flags import BypassPolicy
from engine.image.qcow2 import (
    DIRECTORY_SIZE_MAX,
    HEAD_SIZE,
    Bitmap,
    BitmapsExtension,
    Qcow2Header,
    parse_bitmap_directory,
    parse_qcow2,
)
from engine.units import round_up

#: _IOR('v', 1, long) where a long has 8 bytes; the kernel writes 4 of them.
_FS_IOC_GETVERSION: Final = 0x80087601
_LONG_SIZE: Final = 8
_GENERATION_SIZE: Final = 4
#: Bytes; what lseek takes.
_OFFSET_MAX: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the source of a disk is at one instant."""

    #: "file", "block" or "other".
    kind: str
    #: Bytes; of a block device all that it holds, None where that cannot be asked.
    size: int | None
    #: Last change of the data, nanoseconds since 1970; of a block device meaningless.
    mtime_ns: int
    inode: int
    #: Another one for each file that had the inode; None where the file system has none, or does not say.
    generation: int | None = None
    #: None for other formats, and where it could not be read.
    qcow2: Qcow2Header | None = None
    #: Persistent bitmaps of a qcow2.
    bitmaps: tuple[Bitmap, ...] = ()
    #: Of a block device; None for files, and where the kernel does not count.
    writes: Writes | None = None
    #: Why this process could not read it although it is there; QEMU may well. Empty where it could.
    unreadable: str = ""
    #: Why it is not of the format it should be; empty where it is, or where no other is known.
    damage: str = ""

    @property
    def virtual_size(self) -> int | None:
        """Return the bytes that the guest sees, None where they are unknown."""
        return self.size if self.qcow2 is None else self.qcow2.virtual_size


def kind_of(path: Path) -> str:
    """Return what is at the path: "file", "block" or "other".

    Raises:
        OSError: nothing is there, or it may not be looked at.
    """
    return _kind(path.stat().st_mode)


def look_at(path: Path, *, disk_format: str, is_to_be_synced: bool = False) -> Look:
    """Return what is at the path; on request have it on stable storage, time of last change included.

    Raises:
        OSError: it is not there, or may not be looked at.
    """
    state = path.stat()
    kind = _kind(state.st_mode)
    size = state.st_size if kind == "file" else None
    plain = Look(kind=kind, size=size, mtime_ns=state.st_mtime_ns, inode=state.st_ino)
    if kind == "other":
        # Opening a FIFO waits for somebody at its other end.
        return plain
    try:
        # A disk is often a link (/dev/vg/lv); O_NONBLOCK leaves the tray of a drive alone.
        file = open_direct(path.resolve(), os.O_RDONLY | os.O_NONBLOCK, BypassPolicy.PREFER)
    except EngineError as error:
        return replace(plain, writes=_writes(state), unreadable=error.found)
    try:
        if is_to_be_synced:
            with suppress(OSError):  # on a file system that was made read-only meanwhile, say
                os.fsync(file.fd)
        # On NFS an open asks the server, a stat may answer from memory.
        state = os.fstat(file.fd)
        found = replace(
            plain,
            size=os.lseek(file.fd, 0, os.SEEK_END) if kind == "block" else state.st_size,
            mtime_ns=state.st_mtime_ns,
            inode=state.st_ino,
            generation=_read_generation(file.fd),
            writes=_writes(state),
        )
        return _with_head(found, file) if disk_format == "qcow2" else found
    finally:
        file.close()


def _writes(state: os.stat_result) -> Writes | None:
    return read_writes(state.st_rdev) if stat.S_ISBLK(state.st_mode) else None


def _kind(mode: int) -> str:
    return "file" if stat.S_ISREG(mode) else "block" if stat.S_ISBLK(mode) else "other"


def _with_head(plain: Look, file: DirectFile) -> Look:
    """Add what the head of a qcow2 says, or why it says nothing."""
    try:
        header = parse_qcow2(_read(file, 0, HEAD_SIZE), path=str(file.path))
        bitmaps = _read_bitmaps(file, header.bitmaps)
    except ImageFormatError as error:
        return replace(plain, damage=error.found)
    except EngineError as error:
        return replace(plain, unreadable=error.found)
    if header.data_file is None:
        return replace(plain, qcow2=header, bitmaps=bitmaps)
    try:
        data_mtime_ns = (file.path.parent / header.data_file).stat().st_mtime_ns
    except (OSError, ValueError) as error:
        return replace(plain, qcow2=header, bitmaps=bitmaps, damage=f"its data file: {error}")
    return replace(plain, qcow2=header, bitmaps=bitmaps, mtime_ns=max(plain.mtime_ns, data_mtime_ns))


def _read_bitmaps(file: DirectFile, listed: BitmapsExtension | None) -> tuple[Bitmap, ...]:
    """Return the persistent bitmaps; none where their list is damaged or longer than any in use."""
    if listed is None or listed.directory_size > DIRECTORY_SIZE_MAX or listed.directory_offset > _OFFSET_MAX:
        return ()
    data = _read(file, listed.directory_offset, listed.directory_size)
    try:
        return parse_bitmap_directory(data, listed.count, path=str(file.path))
    except ImageFormatError:
        return ()


def _read(file: DirectFile, offset: int, size: int) -> bytes:
    """Return up to `size` bytes from the offset, fewer at the end of the file."""
    skipped = offset % file.block_size
    buffer = BufferRing(count=1, size=round_up(skipped + size, file.block_size)).take()
    assert buffer is not None
    if not file.is_direct:
        # Without this the kernel would read ahead, into pages that nobody asked for.
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
    count = file.read_at(buffer, offset - skipped)
    if not file.is_direct:
        # Only what was read here: other pages may be in use, the guest of a checkpoint goes on.
        os.posix_fadvise(file.fd, offset - skipped, len(buffer), os.POSIX_FADV_DONTNEED)
    return bytes(buffer[skipped : min(count, skipped + size)])


def _read_generation(fd: int) -> int | None:
    """Return the generation of the file's inode, None where there is none."""
    answer = bytearray(_LONG_SIZE)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETVERSION, answer)
    except OSError:
        return None
    return int.from_bytes(answer[:_GENERATION_SIZE], sys.byteorder)
