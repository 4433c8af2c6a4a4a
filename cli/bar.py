"""Show how far one local operation on an image has come: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.output import open_console
from engine.observer import Observer, SilentObserver

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def open_bar(text: str, *, is_silent: bool) -> Iterator[Observer]:
    """Give an observer that moves a bar on standard error, where that is a terminal and wanted."""
    if is_silent or not sys.stderr.isatty():
        yield SilentObserver()
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=open_console(stderr=True)) as progress:
        yield _Bar(progress, text)


class _Bar(SilentObserver):
    """Moves a bar by what the engine tells."""

    def __init__(self, progress: Progress, text: str) -> None:
        self._progress = progress
        self._task = progress.add_task(text, total=None)

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """Move it."""
        self._progress.update(self._task, completed=done_bytes, total=total_bytes)
