"""Run the engine here and now: no broker, no catalog, any path that the user may use."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import click

from cli.display import Display, SilentDisplay
from cli.finished import Finished
from cli.guard import Guard, guarded, put_right
from cli.order import Order
from engine import Engine, EngineError
from engine.cancel import CancelToken
from engine.dispatch import perform
from engine.errors import CancelledError
from engine.request import EngineRequest
from engine.steps import Step
from tasks.config import default_managed_save_dir
from tasks.params import request_fields

_SYSTEM_URI: Final = "qemu:///system"
_SESSION_URI: Final = "qemu:///session"
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def run_here(order: Order, display: Display) -> Iterator[list[Finished]]:
    """Run the operation on one domain after the other, then the block; one that fails does not stop the rest.

    SIGINT, SIGTERM and SIGHUP stop the one that runs, whose guest is put back, and all that follow. Guests
    that were started with --autodestroy live until such a signal comes: the block ends with that.

    Raises:
        EngineError: the hypervisor cannot be reached; or, for an order of one domain, what became of it.
    """
    uri, where, places = order.uri or default_uri(), runtime_dir(), directories_of(order)
    observer, cancel = _Shown(display), CancelToken()
    put_right(uri, where, places)
    with (
        _signals_cancel(cancel),
        guarded(uri, where, places) as guard,
        open_engine(order, observer=observer, cancel=cancel) as engine,
    ):
        run = _Run(order, engine, observer, cancel, guard)
        with display:
            finished = [run.run_one(label) for label in order.labels]
        if cancel.is_cancelled and not order.is_single and any(one.error for one in finished):
            raise CancelledError(
                "", _describe_interruption(finished), hint="each guest is saved or as it was"
            )
        yield finished
        if order.params.get("autodestroy") and any(one.error is None for one in finished):
            if not order.is_quiet:
                click.echo("fleetsave: the guests live until this command ends: press Ctrl-C", err=True)
            cancel.wait()


def open_engine(order: Order, *, observer: _Shown | None = None, cancel: CancelToken | None = None) -> Engine:
    """Return an engine of this process for the order.

    Raises:
        EngineError: the hypervisor cannot be reached.
    """
    uri = order.uri or default_uri()
    return Engine(
        uri,
        runtime_dir=runtime_dir(),
        host=socket.gethostname(),
        store=order.store,
        managed_save_dir=default_managed_save_dir(uri),
        observer=observer,
        cancel=cancel,
    )


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


def directories_of(order: Order) -> list[Path]:
    """Return where the order's images are or will be: what died there before may have left something."""
    files = [Path(order.params[key]).absolute() for key in ("to", "path") if order.params.get(key)]
    stores = [] if order.store is None else [order.store.absolute()]
    # Of a restore point the store: a copy of its image is staged there (engine.editcopy).
    stores += [file.parent.parent for file in files if os.path.isdir(file)]  # noqa: PTH112 - never raises
    return [*stores, *(file.parent for file in files)]


class _Run:
    """One order on its way."""

    def __init__(
        self, order: Order, engine: Engine, observer: _Shown, cancel: CancelToken, guard: Guard
    ) -> None:
        self._order = order
        self._engine = engine
        self._observer = observer
        self._cancel = cancel
        self._guard = guard
        self._host = socket.gethostname()

    def run_one(self, label: str) -> Finished:
        """Run the operation on one domain; a failure is a value where others follow, else it is raised."""
        self._observer.begin(self._order.op, label, self._host)
        try:
            self._cancel.raise_if_cancelled(label)
            outcome = perform(self._engine, self._request(label))
        except EngineError as error:
            self._guard.note(error)
            if self._order.is_single:
                raise
            one = Finished(op=self._order.op, label=label, host=self._host, error=error.to_dict())
        else:
            one = Finished(
                op=self._order.op, label=label, host=self._host, job_id=outcome.job_id,
                result=outcome.to_dict(),
            )  # fmt: skip
        self._observer.end(one)
        return one

    def _request(self, label: str) -> EngineRequest:
        """Return what the engine is asked; paths by this process's working directory."""
        order = self._order
        fields = request_fields(order.params)
        for key in ("to", "path"):
            if fields.get(key) is not None:
                fields[key] = str(Path(fields[key]).absolute())
        return EngineRequest(
            op=order.op,
            job_id=uuid.uuid4().hex,
            host=self._host,
            uri=order.uri or default_uri(),
            runtime_dir=str(runtime_dir()),
            domain=label if order.domains else None,
            autodestroy=bool(order.params.get("autodestroy")),
            **fields,
        )


def _describe_interruption(finished: list[Finished]) -> str:
    done = [one.label for one in finished if one.error is None]
    left = [one.label for one in finished if one.error is not None]
    return f"interrupted: done {', '.join(done) or 'none'}; not done {', '.join(left)}"


@contextmanager
def _signals_cancel(cancel: CancelToken) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP cancel while the block runs; one that is ignored (nohup) stays so."""

    def note(number: int, _frame: FrameType | None) -> None:
        cancel.cancel(f"by {signal.Signals(number).name}")

    heard = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Shown:
    """Tells the display what the engine tells its observer.

    A terminal that was closed must not disturb what it showed: then nothing is shown any more.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._key = ""
        self._done = 0
        self._total: int | None = None
        self._note = ""

    def begin(self, op: str, label: str, host: str) -> None:
        """Show the next operation."""
        self._key, self._done, self._total, self._note = label, 0, None, ""
        with self._blind_if_gone():
            self._display.begin(label, op=op, label=label, host=host, job_id=None)

    def end(self, finished: Finished) -> None:
        """Show that it is over."""
        with self._blind_if_gone():
            self._display.end(self._key, finished)

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
        with self._blind_if_gone():
            self._display.advance(self._key, done=self._done, total=self._total, note=self._note)

    @contextmanager
    def _blind_if_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._display = SilentDisplay()
