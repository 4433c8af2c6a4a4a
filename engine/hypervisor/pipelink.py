"""Give libvirt a path that leads into a pipe of this process, and nowhere once it is dead.

The path is a symbolic link to /proc/<pid>/fd/<n>. Opening it opens the pipe itself, as a
FIFO's path would; yet when this process dies, however it dies, the path leads nowhere and
open(2) fails with ENOENT instead of blocking libvirtd until somebody comes
(docs/decisions/0001). libvirtd must share this process's PID namespace and /proc.

Source: proc(5), /proc/pid/fd; pipe(7); tried with libvirt 11.3.
"""

from __future__ import annotations

import os
from pathlib import Path


class PipeLink:
    """One path, turned from pipe to pipe atomically."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "pipe"
        self._next = directory / "pipe.next"
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def lead_to(self, fd: int) -> None:
        """Let the next open of the path reach the pipe behind fd."""
        self._next.symlink_to(f"/proc/{os.getpid()}/fd/{fd}")
        self._next.rename(self.path)

    def shut(self, fd: int) -> None:
        """Leave the pipe behind fd for good, and let an open that still comes for it fail.

        The number stays taken, by a directory, which cannot be opened for writing. Were the
        path removed, libvirt would make a plain file in its place and save into that.
        """
        os.dup2(self._directory, fd, inheritable=False)

    def close(self) -> None:
        """Remove the path; only once the call that was given it has returned."""
        self.path.unlink(missing_ok=True)
        self._next.unlink(missing_ok=True)
        os.close(self._directory)
