"""Start an engine process that can outlive its worker, and find it again."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

#: Bytes of the end of a log that are looked at for its last line.
_TAIL_BYTES: Final = 8192
#: Fields of /proc/<pid>/stat after the command's name, from 0. Source: proc(5).
_STATE_FIELD: Final = 0
_START_FIELD: Final = 19
_DEAD: Final = frozenset({"Z", "X", "x"})
_FILE_MODE: Final = 0o600


class EngineProcess:
    """A running engine, our own child or one that an earlier worker started."""

    def __init__(self, pid: int, start_ticks: int, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        #: Clock ticks since boot when it started.
        self.start_ticks = start_ticks
        self._pidfd = pidfd
        self._child = child

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        request: str,
        *,
        folder: Path,
        environment: Mapping[str, str],
        on_started: Callable[[int, int], None],
    ) -> Self:
        """Return a new engine that works on the request.

        Args:
            command: what to run.
            request: what it reads on standard input.
            folder: gets events.jsonl (standard output) and stderr.log; the working directory.
            environment: all of it.
            on_started: told pid and start ticks before the engine is given the request: an engine of which
                there is no record has read nothing and does nothing.

        Raises:
            OSError: it could not be started.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        stdout = os.open(folder / "events.jsonl", flags, _FILE_MODE)
        stderr = os.open(folder / "stderr.log", flags, _FILE_MODE)
        try:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,
                env=dict(environment),
                # Ctrl-C at the worker's terminal is not meant for it.
                start_new_session=True,
            )
        finally:
            os.close(stdout)
            os.close(stderr)
        process: Self | None = None
        try:
            # A child that nobody has waited for keeps its pid and its line in /proc, dead or alive.
            process = cls(child.pid, _read_stat(child.pid)[1], os.pidfd_open(child.pid), child)
            on_started(process.pid, process.start_ticks)
            _hand_over(child, request)
        except BaseException:
            child.kill()
            child.communicate()
            if process is not None:
                process.close()
            raise
        return process

    @classmethod
    def find(cls, pid: int, start_ticks: int) -> Self | None:
        """Return the engine that an earlier worker started, if it still runs."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            # Looked at after the descriptor was taken: what is seen now is what the descriptor holds.
            state, ticks = _read_stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            state, ticks = "X", -1
        if state in _DEAD or ticks != start_ticks:
            os.close(pidfd)
            return None
        return cls(pid, start_ticks, pidfd, None)

    def wait_exit(self, seconds: float) -> bool:
        """Wait until the engine has ended, at most so long; tell whether it has."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def terminate(self) -> None:
        """Send SIGTERM: an engine puts its guest back, unless the point of no return has begun."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def describe_exit(self) -> str:
        """Say how the engine ended; only once it has."""
        if self._child is None:
            return "the engine ended without a result, and its exit status went to the worker that started it"
        status = self._child.wait()
        if status < 0:
            return f"the engine was killed by {signal.Signals(-status).name}"
        return f"the engine ended with exit status {status} and without a result"

    def _send(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has ended it means nothing."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Let go of the process; it goes on if it runs."""
        os.close(self._pidfd)
        if self._child is not None:
            self._child.poll()


def read_last_line(path: Path) -> str:
    """Return the last line of a log that is not blank; nothing if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _read_stat(pid: int) -> tuple[str, int]:
    """Return a process's state letter and start ticks.

    Source: proc(5), /proc/pid/stat; the command's name may hold blanks and parentheses.
    """
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    )
    return fields[_STATE_FIELD], int(fields[_START_FIELD])


def _hand_over(child: subprocess.Popen[bytes], request: str) -> None:
    """Give the engine its request; one that died at once is found out later, by its exit."""
    assert child.stdin is not None
    try:
        with child.stdin as stdin:
            stdin.write(request.encode())
    except BrokenPipeError:
        return
