"""Print JSON documents, tables, sizes, durations and ages."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

import click

from engine.units import format_size

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a table that goes into a file or a pipe: nothing is cut or folded there.
_PIPE_WIDTH: Final = 400
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

#: UTC time and job id: how the engine names restore points.
_POINT_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9-]{1,64}")
#: Shown where there is nothing to show.
NOTHING: Final = "-"


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, default=_plain)
    sys.stdout.write("\n")
    sys.stdout.flush()


def plain_view(view: Any) -> dict[str, Any]:
    """Return a frozen value as JSON has it: times as text, tuples as lists."""
    assert is_dataclass(view)
    assert not isinstance(view, type)
    return asdict(view)


def open_console(*, stderr: bool = False) -> Console:
    """Return a console on standard output (or error); in a pipe it is wide and without colour."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        highlight=False,
        emoji=False,
        markup=False,
        width=None if stream.isatty() else _PIPE_WIDTH,
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table on standard output.

    Args:
        columns: headings.
        rows: cells, as many in each row as there are headings.
        right: headings of the columns that hold numbers.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        is_number = column in right
        table.add_column(column, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console = open_console()
    with console.capture() as printed:
        console.print(table)
    # The last column's padding is of no use to anybody.
    click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


def format_bytes(size: float | None) -> str:
    """Return a size, "-" where it is not known."""
    return NOTHING if size is None else format_size(size)


def format_seconds(seconds: float | None) -> str:
    """Return a duration: "85 ms", "1.9 s", "4 min 10 s"."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{int(seconds) // _MINUTE} min {int(seconds) % _MINUTE} s"
    return f"{int(seconds) // _HOUR} h {int(seconds) % _HOUR // _MINUTE} min"


def format_rate(bytes_per_second: float | None) -> str:
    """Return a throughput: "120.0 MiB/s"."""
    return NOTHING if bytes_per_second is None else f"{format_size(bytes_per_second)}/s"


def format_age(moment: datetime | None, now: datetime) -> str:
    """Return how long ago something was: "12 s", "5 min", "3 h", "2 d"."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for limit, unit, word in ((_MINUTE, 1, "s"), (_HOUR, _MINUTE, "min"), (2 * _DAY, _HOUR, "h")):
        if seconds < limit:
            return f"{seconds // unit} {word}"
    return f"{seconds // _DAY} d"


def format_time(moment: datetime | None) -> str:
    """Return a moment in UTC, to the second."""
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def name_point(path: str) -> str:
    """Return the directory's name for a restore point of a store, the whole path for an image file."""
    name = PurePath(path).name
    return name if _POINT_NAME.fullmatch(name) else path


def _plain(value: object) -> object:
    """Return what JSON has no word for as text or list."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | set | frozenset):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    message = f"{type(value).__name__} has no JSON form"
    raise TypeError(message)


def _style(cell: str) -> str:
    """Return the colour of a cell that says how something stands."""
    word = cell.partition(" ")[0]
    if word in {"succeeded", "running", "up", "passed", "ok"}:
        return "green"
    if word in {"failed", "lost", "down", "FAILED", "error"}:
        return "red"
    if word in {"queued", "committing", "cancelled", "paused", "warning"}:
        return "yellow"
    return ""
