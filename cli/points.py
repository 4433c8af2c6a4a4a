"""fleetsave points: the images that there are to restore."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from cli.command import Command, Group
from cli.failure import printable
from cli.options import host_option
from cli.output import NOTHING, format_age, format_bytes, name_point, plain_view, print_json, print_table

if TYPE_CHECKING:
    from tasks.catalog import RestorePointView
    from tasks.restorable import Verdict

_COLUMNS: Final = ("domain", "host", "age", "size", "point")
_NUMBERS: Final = ("age", "size")


@click.group(
    cls=Group,
    lazy={"list": "cli.points:list_"},
    examples=("fleetsave points list", "fleetsave points list --domain web-1 --json"),
)
def points() -> None:
    """Look at restore points."""


@click.command(
    "list",
    cls=Command,
    examples=(
        "fleetsave points list",
        "fleetsave points list --domain web-1 --host alpha",
        "fleetsave points list --restorable-on beta --all",
        "fleetsave points list --json",
    ),
)
@host_option
@click.option("--domain", metavar="DOMAIN", help="Only this domain's: name or UUID.")
@click.option(
    "--restorable-on",
    "target",
    metavar="HOST",
    help="Only those whose guest this host can run, by what it last said; the image stays where it is.",
)
@click.option("--all", "shows_all", is_flag=True, help="With --restorable-on: the others too, and why.")
def list_(
    *, host: str | None, domain: str | None, target: str | None, shows_all: bool, as_json: bool
) -> None:
    """List restore points, the newest first, by the names that fleetsave restore takes."""
    from cli.control import open_control
    from tasks.catalog import queries
    from tasks.restorable import judge_points, known_capabilities

    if shows_all and target is None:
        raise click.UsageError("--all needs --restorable-on HOST.")
    verdicts: list[Verdict] | None = None
    with open_control() as control:
        control.catch_up_if_possible()
        found = queries.list_restore_points(control.catalog, host=host, domain=domain)
        if target is not None:
            verdicts = judge_points(found, known_capabilities(control.catalog, target))
    if as_json:
        print_json({"points": _documents(found, verdicts)})
    elif verdicts is None or target is None:
        _print_points(found)
    else:
        _print_verdicts(found, verdicts, target, shows_all=shows_all)


def _documents(
    points: Sequence[RestorePointView], verdicts: Sequence[Verdict] | None
) -> list[dict[str, Any]]:
    """Return the points as JSON has them, with the verdict on each where one was asked for."""
    documents = [plain_view(point) for point in points]
    for document in documents:
        # Long, and of no use to whoever lists points; the manifest has it.
        del document["requirements"]
    if verdicts is not None:
        for document, verdict in zip(documents, verdicts, strict=True):
            document.update(verdict.to_dict())
    return documents


def _print_points(points: Sequence[RestorePointView]) -> None:
    now = datetime.now(UTC)
    print_table(_COLUMNS, [_row(point, now) for point in points], right=_NUMBERS)


def _print_verdicts(
    points: Sequence[RestorePointView], verdicts: Sequence[Verdict], target: str, *, shows_all: bool
) -> None:
    """Print the points that fit, or all with the reasons; on stderr how many do not."""
    now = datetime.now(UTC)
    judged = list(zip(points, verdicts, strict=True))
    if shows_all:
        rows = [(*_row(point, now), verdict.word, verdict.reason or NOTHING) for point, verdict in judged]
        print_table((*_COLUMNS, "restorable", "why not"), rows, right=_NUMBERS)
    else:
        fitting = [_row(point, now) for point, verdict in judged if verdict.is_restorable]
        print_table(_COLUMNS, fitting, right=_NUMBERS)
    from tasks.restorable import sum_up

    if line := sum_up(verdicts, target):
        click.echo(f"fleetsave: {printable(line)}", err=True)


def _row(point: RestorePointView, now: datetime) -> tuple[str, ...]:
    return (
        point.domain_name or point.domain_uuid or NOTHING,
        point.host,
        format_age(point.taken_at, now),
        format_bytes(point.size_bytes),
        name_point(point.path),
    )
