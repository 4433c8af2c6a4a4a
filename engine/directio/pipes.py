"""Read and write a pipe that the other side may leave at any time."""

from __future__ import annotations

import errno
import fcntl
import os
import select
from typing import Final

from engine.cancel import CancelToken
from engine.units import KiB, MiB

#: Bytes; the most that an unprivileged process may ask for (fs.pipe-max-size).
PIPE_SIZE_MAX: Final = 1 * MiB
PIPE_SIZE_MIN: Final = 4 * KiB
#: Milliseconds between two looks at the cancel token while a pipe is silent.
_POLL_MILLISECONDS: Final = 200


def resize_pipe(fd: int, size: int) -> int:
    """Ask for a pipe buffer of size bytes, take less where the kernel gives less; return what it is."""
    while size >= PIPE_SIZE_MIN:
        try:
            return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.EBUSY}:
                raise
            size //= 2
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


def fill_from_pipe(fd: int, buffer: memoryview, cancel: CancelToken, where: str) -> int:
    """Fill the buffer from a pipe; return the bytes read, fewer only at the end of the stream.

    Raises:
        CancelledError: somebody asked to stop.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    done = 0
    while done < len(buffer):
        cancel.raise_if_cancelled(where)
        if not poll.poll(_POLL_MILLISECONDS):
            continue
        try:
            count = os.readv(fd, [buffer[done:]])
        except BlockingIOError:
            continue
        if count == 0:
            break
        done += count
    return done


def write_to_pipe(fd: int, data: memoryview | bytes, cancel: CancelToken, where: str) -> None:
    """Write all of data to a non-blocking pipe.

    Raises:
        BrokenPipeError: nobody reads it any more.
        CancelledError: somebody asked to stop.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    view = memoryview(data)
    while view:
        cancel.raise_if_cancelled(where)
        if not poll.poll(_POLL_MILLISECONDS):
            continue
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            continue
