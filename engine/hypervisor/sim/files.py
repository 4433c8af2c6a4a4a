"""Open, write and read what libvirt would, without ever being stuck in a system call.

Source: libvirt src/qemu/qemu_saveimage.c; src/util/virfile.c, virFileWrapperFdNew(); src/util/iohelper.c.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine.hypervisor.sim.codes import OPERATION_FAILED, failure
from engine.units import MiB, round_up

#: Milliseconds between two looks whether a transfer is still wanted.
_POLL_MILLISECONDS: Final = 50
_BLOCK_SIZE: Final = 4096
_BUFFER_SIZE: Final = 1 * MiB


def open_target(path: str, flags: int, check: Callable[[], None]) -> int:
    """Open a file for writing; with a FIFO that nobody reads, wait for a reader as open(2) would.

    Args:
        path: the file.
        flags: of open(2).
        check: raises when the wait need not go on.

    Raises:
        OSError: open(2) failed.
    """
    while True:
        try:
            return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(Path(path).stat().st_mode):
                raise
        check()
        time.sleep(_POLL_MILLISECONDS / 1000)


class Target:
    """An open target; gathers whole blocks for O_DIRECT."""

    def __init__(self, fd: int, where: str, check: Callable[[], None], *, direct: bool = False) -> None:
        self.fd = fd
        self._check = check
        self._size = 0
        self._filled = 0
        self._buffer = mmap.mmap(-1, _BUFFER_SIZE) if direct else None
        if direct and not stat.S_ISREG(os.fstat(fd).st_mode):
            raise failure(OPERATION_FAILED, where, "O_DIRECT write needs empty seekable file")

    def write(self, data: bytes) -> None:
        """Write all of data.

        Raises:
            OSError: write(2) failed; EPIPE where nobody reads any more.
        """
        self._size += len(data)
        if self._buffer is None:
            self._write(data)
            return
        view = memoryview(data)
        while view:
            count = min(len(view), _BUFFER_SIZE - self._filled)
            self._buffer[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == _BUFFER_SIZE:
                self._flush()

    def finish(self) -> None:
        """Write what is left of the last block, cut its padding."""
        if self._buffer is not None:
            self._flush()
            os.ftruncate(self.fd, self._size)

    def close(self) -> None:
        """Close the file."""
        if self._buffer is not None:
            self._buffer.close()
        os.close(self.fd)

    def _flush(self) -> None:
        assert self._buffer is not None
        end = round_up(self._filled, _BLOCK_SIZE)
        self._buffer[self._filled : end] = bytes(end - self._filled)
        with memoryview(self._buffer) as whole, whole[:end] as part:
            self._write(part)
        self._filled = 0

    def _write(self, data: bytes | memoryview) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                if not poll.poll(_POLL_MILLISECONDS):
                    self._check()
                    continue
                with view[done:] as rest:
                    try:
                        done += os.write(self.fd, rest)
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        # Whose daemon is dead learns that first, as libvirt's own clients do.
                        self._check()
                        raise


class Source:
    """An open source, read ahead by up to 1 MiB."""

    def __init__(self, path: str, where: str, check: Callable[[], None], *, direct: bool = False) -> None:
        self._check = check
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
        self.fd = os.open(path, flags)
        if direct and not stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise failure(OPERATION_FAILED, where, "O_DIRECT read needs entire seekable file")
        self._buffer = mmap.mmap(-1, _BUFFER_SIZE)
        self._begin = self._end = 0
        self._is_over = False

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only at the end of the file.

        Raises:
            OSError: read(2) failed.
        """
        data = bytearray()
        while len(data) < size and (self._begin < self._end or self._fill()):
            count = min(size - len(data), self._end - self._begin)
            data += self._buffer[self._begin : self._begin + count]
            self._begin += count
        return bytes(data)

    def close(self) -> None:
        """Close the file."""
        self._buffer.close()
        os.close(self.fd)

    def _fill(self) -> bool:
        """Read the next bytes; return False at the end."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not self._is_over:
            # A FIFO that had no writer yet is silent; once it had one and has none, it is hung up.
            if not poll.poll(_POLL_MILLISECONDS):
                self._check()
                continue
            try:
                count = os.readv(self.fd, [self._buffer])
            except BlockingIOError:
                continue
            # A direct read that ends inside a block met the end; asking again would be misaligned.
            self._is_over = count == 0
            self._begin, self._end = 0, count
            return count > 0
        return False
