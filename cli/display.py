"""Show operations while they run: bars on a terminal, lines in a pipe, nothing where nobody wants it."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

from cli.finished import Finished
from cli.output import open_console

if TYPE_CHECKING:
    from rich.progress import TaskID


class Display(Protocol):
    """Told of operations while they run; each has a key of the caller's choice."""

    #: True where each ending was shown as it came, and need not be shown again.
    tells_endings: bool

    def begin(self, key: str, text: str) -> None:
        """An operation is on its way."""

    def advance(self, key: str, *, done: int, total: int | None, note: str) -> None:
        """So many bytes have passed, and this is what it is doing."""

    def end(self, key: str, finished: Finished) -> None:
        """It is over."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_display(*, is_silent: bool) -> Display:
    """Return the display that fits who is looking."""
    if is_silent:
        return SilentDisplay()
    if sys.stderr.isatty() and not open_console(stderr=True).is_dumb_terminal:
        return BarDisplay()
    return LineDisplay()


class SilentDisplay:
    """Shows nothing."""

    tells_endings = False

    def begin(self, key: str, text: str) -> None:
        """Ignore it."""

    def advance(self, key: str, *, done: int, total: int | None, note: str) -> None:
        """Ignore it."""

    def end(self, key: str, finished: Finished) -> None:
        """Ignore it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put away."""


class LineDisplay(SilentDisplay):
    """Prints one line when an operation begins and one when it has succeeded; failures go to stderr."""

    tells_endings = True

    def begin(self, key: str, text: str) -> None:
        """Print what begins."""
        del key
        click.echo(text)

    def end(self, key: str, finished: Finished) -> None:
        """Print what was done."""
        del key
        if finished.error is None:
            click.echo(finished.sentence())


class BarDisplay:
    """Shows a bar for each operation, with bytes, rate and the time left, on standard error."""

    tells_endings = False

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=open_console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def begin(self, key: str, text: str) -> None:
        """Add a bar that waits for its first bytes."""
        self._tasks[key] = self._progress.add_task(text, total=None, note="")

    def advance(self, key: str, *, done: int, total: int | None, note: str) -> None:
        """Move the bar."""
        self._progress.update(self._tasks[key], completed=done, total=total, note=note)

    def end(self, key: str, finished: Finished) -> None:
        """Fill the bar, or stop it where it failed."""
        task = self._tasks[key]
        if finished.result is None:
            note = "failed" if finished.error else str(finished.job_state)
            self._progress.update(task, note=note)
            self._progress.stop_task(task)
            return
        size = int(finished.result["bytes"])
        self._progress.update(task, completed=size or 1, total=size or 1, note="done")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
