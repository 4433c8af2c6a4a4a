"""Outlive a command that runs the engine in its own process, and put right what it leaves when it dies.

Started by path, not as a module: until there is something to do, it is a Python without this package, which
starts in milliseconds and holds nothing but a pipe.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from engine.recover import Recovery

#: What the command writes into the pipe when it has left nothing behind.
CLEAN_END: Final = b"."
LOG_NAME: Final = "guardian.log"
#: Seconds that a command gets to be gone after its end of the pipe is.
_GONE_SECONDS: Final = 10.0
#: Seconds that are spent on what cannot be decided at once; libvirt may be starting again.
_TRY_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.5
#: Bytes; a longer log begins anew.
_LOG_SIZE_MAX: Final = 1024 * 1024


def main(arguments: list[str]) -> int:
    """Wait for the command's end; recover if it was no clean one.

    Args:
        arguments: one JSON object {"uri", "runtime_dir", "directories", "process"}: what engine.recover
            wants, and a descriptor (pidfd) of the command. Standard input is the pipe.
    """
    order = json.loads(arguments[0])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever stops the command by its group or its unit means the command, which puts its guest back.
        signal.signal(number, signal.SIG_IGN)
    if _read_end() == CLEAN_END:
        return 0
    # The pipe may be closed a little before the locks are: only a command that is gone holds none.
    select.select([order["process"]], [], [], _GONE_SECONDS)
    return _put_right(order["uri"], Path(order["runtime_dir"]), order["directories"])


def _read_end() -> bytes:
    """Return what the command said last, nothing if it died."""
    said = b""
    while got := os.read(sys.stdin.fileno(), 1):
        said = got
    return said


def _put_right(uri: str, runtime_dir: Path, directories: list[str]) -> int:
    """Recover until nothing is undecided, or the time is up; return the exit status."""
    from engine.api import recover
    from engine.errors import EngineError

    deadline = time.monotonic() + _TRY_SECONDS
    told: set[str] = set()
    while True:
        try:
            found = recover(uri, runtime_dir=runtime_dir, directories=directories)
            lines = [describe(one) for one in found]
            is_over = all(one.kind != "undecided" for one in found)
        except (EngineError, OSError) as error:
            lines, is_over = [f"recovery failed: {error}"], False
        _log(runtime_dir, [line for line in lines if line not in told])
        told.update(lines)
        if is_over:
            return 0
        if time.monotonic() > deadline:
            return 1
        time.sleep(_PAUSE_SECONDS)


def describe(recovery: Recovery) -> str:
    """Return one line for people."""
    name = recovery.domain or recovery.job_id or "?"
    return f"{name}: {recovery.kind} {recovery.path} ({recovery.detail})"


def _log(runtime_dir: Path, lines: list[str]) -> None:
    """Write down what was done; nobody reads standard error any more."""
    if not lines:
        return
    path, now = runtime_dir / LOG_NAME, datetime.now(UTC).isoformat(timespec="milliseconds")
    runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_long = path.exists() and path.stat().st_size > _LOG_SIZE_MAX
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if is_long else os.O_APPEND)
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as log:
        log.writelines(f"{now} {line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
