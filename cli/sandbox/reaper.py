"""Collects daemons that lose their parents, where nobody else would.

libvirtd and QEMU leave the client that started them and become children of process 1. In many containers
that is a `sleep`, which never collects its children: a QEMU that has ended stays a zombie; libvirt waits
for it to go, then fails. So this process adopts the orphans among its descendants and collects them itself.

Source: PR_SET_CHILD_SUBREAPER in prctl(2); virExec() in libvirt's src/util/vircommand.c (setsid, then fork).
"""

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cli.sandbox.processes import is_owned, read_stat
from cli.sandbox.users import ID_RANGE

_PR_SET_CHILD_SUBREAPER: Final = 36
_INTERVAL_SECONDS: Final = 0.05
#: Fields of /proc/PID/stat behind the command name.
_STATE_FIELD: Final = 0
_SESSION_FIELD: Final = 3

#: Held while a program is started, so that none can end before it is known as ours.
_starting: Final = threading.Lock()
#: Children of our own that lead a session, as daemons do too.
_own_leaders: Final[set[int]] = set()

_adopters = 0
_adopters_lock: Final = threading.Lock()


def start_leader(start: Callable[[], subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Start a child of our own that leads a session; no reaper will take its exit code from us.

    Children in our own session need no such care.
    """
    with _starting:
        started = start()
        _own_leaders.add(started.pid)
    return started


def forget_leader(pid: int) -> None:
    """Take note that the exit code has been collected: the id may be given to an orphan now."""
    _own_leaders.discard(pid)


class Reaper:
    """Adopts and collects orphans from its start until it is stopped; leaves our own children alone."""

    def __init__(self) -> None:
        self._stopped: Final = threading.Event()
        _count_adopters(+1)
        self._thread: Final = threading.Thread(target=self._collect, name="sandbox-reaper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Collect what has ended, then adopt no more."""
        self._stopped.set()
        self._thread.join()
        _collect_orphans()
        _count_adopters(-1)

    def _collect(self) -> None:
        while not self._stopped.wait(_INTERVAL_SECONDS):
            _collect_orphans()


def _collect_orphans() -> None:
    # One cheap call tells whether any child has ended: most of the time none has.
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    if ended is None:
        return
    with _starting:
        for pid in _list_children():
            stat = read_stat(pid)
            if stat is not None and stat[_STATE_FIELD] == "Z" and _is_adopted(pid, int(stat[_SESSION_FIELD])):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _is_adopted(pid: int, session: int) -> bool:
    """Tell an orphan from a child of our own, whose exit code somebody here waits for."""
    if session == os.getsid(0):
        return False  # Forked by us: descendants of a sandbox's programs are in sessions of theirs.
    if session != pid:
        return True  # In a session that its lost parent led.
    return pid not in _own_leaders and is_owned(pid, ID_RANGE)


def _list_children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, (task / "children").read_text().split())


def _count_adopters(change: int) -> None:
    """Make this process adopt orphans as long as one reaper or more is at work."""
    global _adopters  # noqa: PLW0603 - the attribute is the process's, so its count is too
    with _adopters_lock:
        _adopters += change
        _set_subreaper(adopts=_adopters > 0)


def _set_subreaper(*, adopts: bool) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
