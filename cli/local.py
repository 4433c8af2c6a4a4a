"""Run the engine here and now: no broker, no catalog, any path that the user may use."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from cli.display import Display
from cli.finished import Finished
from cli.order import Order
from engine import Engine, EngineError, SaveFlags, StartFlags
from engine.cancel import CancelToken
from engine.errors import CancelledError
from engine.outcome import Outcome
from engine.steps import Step
from tasks.config import default_managed_save_dir

_SYSTEM_URI: Final = "qemu:///system"
_SESSION_URI: Final = "qemu:///session"


def run_here(order: Order, display: Display) -> list[Finished]:
    """Run the operation on one domain after the other; one that fails does not stop the rest.

    SIGINT and SIGTERM stop the one that runs, whose guest is put back, and all that follow.

    Raises:
        EngineError: the hypervisor cannot be reached; or, for an order of one domain, what became of it.
    """
    uri = order.uri or default_uri()
    host, cancel = socket.gethostname(), CancelToken()
    observer = _Shown(display)
    finished: list[Finished] = []
    with (
        _signals_cancel(cancel),
        Engine(
            uri,
            runtime_dir=runtime_dir(),
            host=host,
            store=order.store,
            managed_save_dir=default_managed_save_dir(uri),
            observer=observer,
            cancel=cancel,
        ) as engine,
    ):
        for label in order.labels:
            observer.turn_to(label)
            display.begin(label, op=order.op, label=label, host=host, job_id=None)
            one = _run_one(engine, order, label, host=host, cancel=cancel)
            display.end(label, one)
            finished.append(one)
    if cancel.is_cancelled and not order.is_single and any(one.error for one in finished):
        raise CancelledError("", _describe_interruption(finished), hint="each guest is saved or as it was")
    return finished


def default_uri() -> str:
    """Return the connection that libvirt's own programs would take, for root the system's."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or (_SYSTEM_URI if os.geteuid() == 0 else _SESSION_URI)


def runtime_dir() -> Path:
    """Return the directory for pipes and locks: root's is the one that workers use, too."""
    if os.geteuid() == 0:
        return Path("/run/fleetsave")
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "fleetsave"
    return Path.home() / ".cache" / "fleetsave" / "run"


def _run_one(engine: Engine, order: Order, label: str, *, host: str, cancel: CancelToken) -> Finished:
    """Run the operation on one domain; a failure is a value where others follow, else it is raised."""
    try:
        cancel.raise_if_cancelled(label)
        outcome = _call(engine, order, label)
    except EngineError as error:
        if order.is_single:
            raise
        return Finished(op=order.op, label=label, host=host, error=error.to_dict())
    return Finished(op=order.op, label=label, host=host, job_id=outcome.job_id, result=outcome.to_dict())


def _call(engine: Engine, order: Order, label: str) -> Outcome:
    """Call the engine with the flags that the order's parameters stand for."""
    given: dict[str, Any] = order.params
    policy = given["bypass_cache"]
    if order.op == "start":
        flags = StartFlags.PAUSED if given.get("paused") else StartFlags.NONE
        flags |= StartFlags.FORCE_BOOT if given.get("force_boot") else StartFlags.NONE
        return engine.start(label, flags, bypass_cache=policy)
    save_flags = SaveFlags.NONE
    for key, flag in (
        ("running", SaveFlags.RUNNING),
        ("paused", SaveFlags.PAUSED),
        ("reset_nvram", SaveFlags.RESET_NVRAM),
    ):
        save_flags |= flag if given.get(key) else SaveFlags.NONE
    if order.op == "save":
        return engine.save(label, given.get("to"), given.get("dxml"), save_flags, bypass_cache=policy)
    if order.op == "restore":
        return engine.restore(given["path"], given.get("dxml"), save_flags, bypass_cache=policy)
    assert order.op == "managed-save", order.op
    return engine.managed_save(label, save_flags, bypass_cache=policy)


def _describe_interruption(finished: list[Finished]) -> str:
    done = [one.label for one in finished if one.error is None]
    left = [one.label for one in finished if one.error is not None]
    return f"interrupted: done {', '.join(done) or 'none'}; not done {', '.join(left)}"


@contextmanager
def _signals_cancel(cancel: CancelToken) -> Iterator[None]:
    """Let SIGINT and SIGTERM cancel while the block runs."""

    def note(number: int, _frame: FrameType | None) -> None:
        cancel.cancel(f"by {signal.Signals(number).name}")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Shown:
    """Tells the display what the engine tells its observer."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._key = ""
        self._done = 0
        self._total: int | None = None
        self._note = ""

    def turn_to(self, key: str) -> None:
        """Turn to the next operation."""
        self._key, self._done, self._total, self._note = key, 0, None, ""

    def step(self, step: Step) -> None:
        """Show the step."""
        self._note = step.value
        self._show()

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """Show the bytes."""
        self._done, self._total = done_bytes, total_bytes
        self._show()

    def guest(self, state: str) -> None:
        """Ignore it: the steps say as much."""

    def _show(self) -> None:
        self._display.advance(self._key, done=self._done, total=self._total, note=self._note)
