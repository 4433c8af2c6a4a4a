"""Processes of this machine as /proc shows them: who owns them, when they started, how to end them.

Source: proc(5) for /proc/PID/stat and /proc/PID/status; pidfd_open(2) against the reuse of process ids.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from cli.sandbox.errors import SandboxError

#: How often a condition that nothing announces is looked at, seconds.
POLL_SECONDS: Final = 0.02

_STATUS_UIDS: Final = "Uid:"
#: Fields of /proc/PID/stat behind the command name: the state is the first, the start time the twentieth.
_STATE_FIELD: Final = 0
_START_FIELD: Final = 19


def read_start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot, or None if there is no such process."""
    fields = read_stat(pid)
    return None if fields is None else int(fields[_START_FIELD])


def is_alive(pid: int, start_ticks: int) -> bool:
    """Tell whether that very process still runs: a zombie and a later bearer of its id do not count."""
    fields = read_stat(pid)
    return fields is not None and fields[_STATE_FIELD] != "Z" and int(fields[_START_FIELD]) == start_ticks


def read_stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name stands in parentheses and may hold spaces and parentheses itself.
    return text[text.rindex(")") + 2 :].split()


def list_owned(uids: Collection[int]) -> list[int]:
    """Return the ids of all processes of the given users, without zombies and processes of containers."""
    return [pid for pid in _list_pids() if _is_running(pid) and is_owned(pid, uids)]


def is_owned(pid: int, uids: Collection[int]) -> bool:
    """Tell whether the process, which may be a zombie, runs as one of the users and in no container."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(_STATUS_UIDS):
                # Real, effective, saved and file system id: a set-user-id program of ours is ours too.
                return any(int(uid) in uids for uid in line.split()[1:]) and _is_in_our_namespace(pid)
    return False


def end_owned(uids: Collection[int], *, grace: float = 5.0, limit: float = 15.0) -> None:
    """End every process of the given users: SIGTERM first, SIGKILL to what is left after the grace.

    A daemon may start another process while it is being ended, so the list is taken anew until it is empty.

    Args:
        uids: user ids; root and the ids of the machine's own services must not be among them.
        grace: seconds between SIGTERM and SIGKILL.
        limit: seconds after which it gives up.

    Raises:
        SandboxError: processes are left after the limit; it names them.
    """
    assert 0 not in uids
    begun = time.monotonic()
    asked: set[int] = set()
    while left := list_owned(uids):
        elapsed = time.monotonic() - begun
        if elapsed > limit:
            named = ", ".join(f"{pid} ({_read_name(pid)})" for pid in left)
            raise SandboxError(f"processes {named} are still there {limit:.0f} s after they were to end")
        for pid in left:
            if elapsed > grace:
                _send(pid, signal.SIGKILL, uids)
            elif pid not in asked:
                asked.add(pid)
                _send(pid, signal.SIGTERM, uids)
        time.sleep(POLL_SECONDS)


def _send(pid: int, number: signal.Signals, uids: Collection[int]) -> None:
    """Send the signal if the id still belongs to one of the users, however fast ids are reused."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if is_owned(pid, uids):
                signal.pidfd_send_signal(descriptor, number)
                if number == signal.SIGKILL:
                    select.select([descriptor], [], [], 1.0)
        finally:
            os.close(descriptor)


def _list_pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208 - names only, often


def _is_running(pid: int) -> bool:
    fields = read_stat(pid)
    return fields is not None and fields[_STATE_FIELD] != "Z"


def _is_in_our_namespace(pid: int) -> bool:
    """Tell a process of this machine from one of a container on it, whose users have nothing to do with ours.

    The kernel shows the processes of containers with bare user ids, and images like the ids useradd(8) gives.
    """
    return Path(f"/proc/{pid}/ns/pid").samefile("/proc/self/ns/pid")


def _read_name(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "gone"
