"""Open the file that an image is written to, past the page cache where the policy says so."""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engine.directio.residency import drop_clean_pages, resident_bytes
from engine.directio.syscalls import direct_io_alignment, reserve_space
from engine.errors import BypassError, NoSpaceError, StorageError
from engine.flags import BypassFailure, BypassPolicy

#: Bytes; what every disk and file system in use is content with.
DEFAULT_BLOCK_SIZE: Final = 4096
#: What is counted when `prefer` has to do without direct I/O.
_FALL_BACK: Final = (BypassFailure.UNSUPPORTED_FILESYSTEM, BypassFailure.FALLBACK_BUFFERED)
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def storage_error(path: str, error: OSError, doing: str) -> StorageError | NoSpaceError:
    """Return the error of ours that says what the system call said."""
    found = f"{doing}: {error.strerror}"
    if error.errno in _NO_SPACE:
        return NoSpaceError(path, found, "room for the image", "free space or choose another --to or store")
    return StorageError(path, found, hint="check the directory, its owner and the disk")


@dataclass(slots=True, kw_only=True)
class DirectFile:
    """An open file whose whole blocks bypass the page cache, unless it had to be otherwise.

    Thread-safe: writes and reads go to explicit offsets.
    """

    path: Path
    fd: int
    policy: BypassPolicy
    #: Bytes that offsets and lengths are multiples of.
    block_size: int
    #: O_DIRECT is on.
    is_direct: bool
    #: Of the file, in the cache before the transfer and not to be dropped: somebody else uses them.
    foreign_bytes: int = 0
    #: Why it is not, or what was found afterwards.
    failures: list[BypassFailure] = field(default_factory=list)

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write all of data at offset; both are multiples of block_size.

        Raises:
            NoSpaceError, StorageError: named with the offset of the first byte that was not written.
        """
        done = 0
        while done < len(data):
            try:
                count = os.pwrite(self.fd, data[done:], offset + done)
            except OSError as error:
                raise storage_error(str(self.path), error, f"writing at byte {offset + done}") from error
            if count == 0 or (count % self.block_size and self.is_direct):
                raise StorageError(
                    str(self.path), f"short write of {count} bytes at byte {offset + done}", "whole blocks"
                )
            done += count

    def read_at(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from offset; return the bytes read, fewer only at the end of the file.

        Raises:
            StorageError: named with the offset.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self.fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise storage_error(str(self.path), error, f"reading at byte {offset + done}") from error
            done += count
            # A read that ends inside a block met the end of the file; asking again would be misaligned.
            if count == 0 or count % self.block_size:
                break
        return done

    def reserve(self, size: int) -> None:
        """Have the file system set size bytes aside, so that writes cannot run out of space in mid-stream.

        Raises:
            NoSpaceError: there is less room than that.
        """
        try:
            reserve_space(self.fd, size)
        except OSError as error:
            if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
                return
            raise storage_error(str(self.path), error, f"reserving {size} bytes") from error

    def truncate(self, size: int) -> None:
        """Cut the padding of the last block and what was reserved too much."""
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise storage_error(str(self.path), error, f"cutting to {size} bytes") from error

    def sync(self) -> None:
        """Return when data and length are on stable storage, and nothing avoidable is left in the cache."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise storage_error(str(self.path), error, "syncing") from error
        if self.is_direct:
            # Cutting inside a block made the file system read that block's page and zero its rest.
            drop_clean_pages(self.fd, os.fstat(self.fd).st_size // mmap.PAGESIZE * mmap.PAGESIZE)
        elif self.policy is BypassPolicy.PREFER:
            drop_clean_pages(self.fd)

    def resident_bytes(self) -> int:
        """Return how much of the file is in the page cache now, bytes.

        Raises:
            StorageError: the kernel cannot tell.
        """
        try:
            return resident_bytes(self.fd)
        except OSError as error:
            raise storage_error(str(self.path), error, "counting its pages in the cache") from error

    def forget_cached(self) -> None:
        """Drop what others left of the file in the cache; what stays is not ours to answer for.

        Raises:
            StorageError: what others left cannot be written to the disk.
        """
        if self.policy is BypassPolicy.OFF:
            return
        try:
            # Dirty pages stay: virsh save leaves its last header unsynced in one.
            os.fdatasync(self.fd)
        except OSError as error:
            raise storage_error(str(self.path), error, "syncing what others wrote") from error
        drop_clean_pages(self.fd)
        self.foreign_bytes = self.resident_bytes()

    def check_bypassed(self) -> int:
        """Return the resident bytes; with `require` there may be none of this transfer.

        Raises:
            BypassError: `require`, and the transfer left pages of the file in the cache.
        """
        resident = self.resident_bytes()
        if resident > self.foreign_bytes and self.policy is not BypassPolicy.OFF:
            self.failures.append(BypassFailure.RESIDENT_PAGES)
            if self.policy is BypassPolicy.REQUIRE:
                raise BypassError(
                    str(self.path),
                    f"{resident} bytes of it are in the page cache after the transfer",
                    "0",
                    "use another file system, or --bypass-cache prefer",
                    reason=BypassFailure.RESIDENT_PAGES.value,
                )
        return resident

    def close(self) -> None:
        """Close the file; nothing is synced by this."""
        os.close(self.fd)


def open_direct(path: Path, mode: int, policy: BypassPolicy, *, permissions: int = 0o600) -> DirectFile:
    """Open a file for one transfer.

    Args:
        path: the file.
        mode: flags of open(2) without O_DIRECT.
        policy: `require` fails where O_DIRECT is refused, `prefer` falls back, `off` does not try.
        permissions: of a file made by this call.

    Raises:
        BypassError: `require`, and the file system has no direct I/O, or wants blocks larger than ours.
        StorageError, NoSpaceError: the file cannot be opened.
    """
    mode |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd, failures = _open_with_policy(path, mode, policy, permissions)
    except OSError as error:
        raise storage_error(str(path), error, "opening") from error
    is_direct = policy is not BypassPolicy.OFF and not failures
    align = direct_io_alignment(fd) if is_direct else None
    if align is not None and align[1] == 0:
        # The open was let through, yet the file system says that it does no direct I/O on this file.
        align, is_direct = None, False
        if policy is BypassPolicy.REQUIRE:
            os.close(fd)
            raise _unsupported(path)
        failures = list(_FALL_BACK)
    block_size = max(DEFAULT_BLOCK_SIZE, *align) if align else DEFAULT_BLOCK_SIZE
    return DirectFile(
        path=path, fd=fd, policy=policy, block_size=block_size, is_direct=is_direct, failures=failures
    )


def _open_with_policy(
    path: Path, mode: int, policy: BypassPolicy, permissions: int
) -> tuple[int, list[BypassFailure]]:
    if policy is BypassPolicy.OFF:
        return os.open(path, mode, permissions), []
    try:
        return os.open(path, mode | os.O_DIRECT, permissions), []
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if policy is BypassPolicy.REQUIRE:
            raise _unsupported(path) from error
    # With O_EXCL a refused O_DIRECT may have left the file behind; it is ours.
    return os.open(path, mode & ~os.O_EXCL, permissions), list(_FALL_BACK)


def _unsupported(path: Path) -> BypassError:
    return BypassError(
        str(path),
        "the file system refuses O_DIRECT",
        "one that bypasses the page cache",
        "use another directory, or --bypass-cache prefer",
        reason=BypassFailure.UNSUPPORTED_FILESYSTEM.value,
    )
