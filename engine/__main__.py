"""Run one operation in a process of its own: request on stdin, JSON-lines events on stdout.

SIGTERM and SIGINT cancel: the guest is put back, the exit status is 130. The exit status is
the error's code, 0 after success.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from engine.api import Engine
from engine.cancel import CancelToken
from engine.dispatch import perform
from engine.errors import EngineError
from engine.outcome import Outcome
from engine.request import EngineRequest, parse_request
from engine.steps import Step

#: Seconds between two progress events.
PROGRESS_SECONDS: Final = 0.2


class EventWriter:
    """Writes each event as one line; the reader may be gone, which must not hurt the guest."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._progress_at = 0.0
        self._hold_at: str | None = None
        self._release = CancelToken()

    def hold(self, at: str | None, release: CancelToken) -> None:
        """Stand still after the event `at` until the token is set; fault tests strike there."""
        self._hold_at, self._release = at, release

    def step(self, step: Step) -> None:
        """Write a step event."""
        self.write("step", step=step.value)
        if step == self._hold_at:
            self._release.wait()

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """Write a progress event, not too often."""
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            self.write("progress", bytes=done_bytes, total=total_bytes)
            if self._hold_at == "progress":
                self._release.wait()

    def guest(self, state: str) -> None:
        """Write that the guest was paused or resumed."""
        self.write("guest", state=state)

    def write(self, event: str, **fields: Any) -> None:
        """Write one event."""
        line = json.dumps(
            {"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        )
        data = f"{line}\n".encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            # Nobody listens or the disk is full: the operation matters more than its story.
            with suppress(OSError):
                sys.stderr.write(f"event lost ({error.strerror}): {line}\n")


def run(request: EngineRequest, events: EventWriter, cancel: CancelToken) -> Outcome:
    """Do what the request says.

    Raises:
        EngineError: it failed.
    """
    with Engine(
        request.uri,
        runtime_dir=Path(request.runtime_dir),
        host=request.host,
        store=request.store,
        allowed_roots=request.allowed_roots,
        managed_save_dir=request.managed_save_dir,
        observer=events,
        cancel=cancel,
    ) as engine:
        return perform(engine, request)


def main() -> int:
    """Run the request on stdin; return the exit status."""
    events, cancel = EventWriter(sys.stdout.fileno()), CancelToken()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: cancel.cancel(f"by {signal.Signals(received).name}"))
    try:
        request = parse_request(sys.stdin.buffer.read())
        events.hold(request.hold_at, cancel)
        outcome = run(request, events, cancel)
    except EngineError as error:
        events.write("error", error=error.to_dict())
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last line must say what happened
        traceback.print_exc()
        unexpected = EngineError(
            "engine", f"{type(error).__name__}: {error}", "", "this is a defect: please report it"
        )
        events.write("error", error=unexpected.to_dict())
        return unexpected.exit_code
    events.write("result", result=outcome.to_dict())
    return 0


if __name__ == "__main__":
    sys.exit(main())
