"""Show operations while they run: bars on a terminal, lines in a pipe, nothing where nobody wants it."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

import click

from cli.finished import Finished
from cli.output import format_rate, open_console

if TYPE_CHECKING:
    from rich.progress import TaskID

#: Columns that a name beside a bar may take.
_LABEL_WIDTH: Final = 20


class Display(Protocol):
    """Told of operations while they run; each has a key of the caller's choice."""

    #: True where each ending was shown as it came, and need not be shown again.
    tells_endings: bool

    def begin(self, key: str, *, op: str, label: str, host: str, job_id: str | None) -> None:
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

    def begin(self, key: str, *, op: str, label: str, host: str, job_id: str | None) -> None:
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

    def begin(self, key: str, *, op: str, label: str, host: str, job_id: str | None) -> None:
        """Print what begins."""
        del key
        click.echo(f"{label}: {op} on {host} {f'as job {job_id}' if job_id else 'begins'}")

    def end(self, key: str, finished: Finished) -> None:
        """Print what was done."""
        del key
        if finished.error is None:
            click.echo(finished.line())


class BarDisplay:
    """Shows a bar for each operation, with bytes, rate and the time left, on standard error."""

    tells_endings = False

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}", justify="right"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=open_console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def begin(self, key: str, *, op: str, label: str, host: str, job_id: str | None) -> None:
        """Add a bar that waits for its first bytes."""
        del job_id
        text = f"{_shorten(label)}: {op} on {host}"
        self._tasks[key] = self._progress.add_task(text, total=None, note="", rate="")

    def advance(self, key: str, *, done: int, total: int | None, note: str) -> None:
        """Move the bar."""
        task = self._tasks[key]
        self._progress.update(task, completed=done, total=total, note=note)
        speed = next(found.speed for found in self._progress.tasks if found.id == task)
        if speed:
            self._progress.update(task, rate=format_rate(speed))

    def end(self, key: str, finished: Finished) -> None:
        """Fill the bar, or stop it where it failed."""
        task = self._tasks[key]
        if finished.result is None:
            note = "failed" if finished.error else str(finished.job_state)
            self._progress.update(task, note=note)
            self._progress.stop_task(task)
            return
        size = int(finished.result["bytes"])
        rate = format_rate(finished.result["throughput_bytes_per_second"]) if size else ""
        self._progress.update(task, completed=size or 1, total=size or 1, note="done", rate=rate)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _shorten(label: str) -> str:
    """Return what fits beside a bar: of a path its last part, of a long name its beginning."""
    name = label.rstrip("/").rpartition("/")[2]
    return name if len(name) <= _LABEL_WIDTH else f"{name[: _LABEL_WIDTH - 3]}..."
