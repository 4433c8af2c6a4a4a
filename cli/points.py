"""fleetsave points: the images that there are to restore."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from cli.command import Command, Group
from cli.options import host_option
from cli.output import NOTHING, format_age, format_bytes, name_point, plain_view, print_json, print_table


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
        "fleetsave points list --json",
    ),
)
@host_option
@click.option("--domain", metavar="DOMAIN", help="Only this domain's: name or UUID.")
def list_(*, host: str | None, domain: str | None, as_json: bool) -> None:
    """List restore points, the newest first, by the names that fleetsave restore takes."""
    from cli.control import open_control
    from tasks.catalog import queries

    with open_control() as control:
        control.catch_up_if_possible()
        found = queries.list_restore_points(control.catalog, host=host, domain=domain)
    if as_json:
        print_json({"points": [plain_view(point) for point in found]})
        return
    now = datetime.now(UTC)
    rows = [
        (
            point.domain_name or point.domain_uuid or NOTHING,
            point.host,
            format_age(point.taken_at, now),
            format_bytes(point.size_bytes),
            name_point(point.path),
        )
        for point in found
    ]
    print_table(("domain", "host", "age", "size", "point"), rows, right=("age", "size"))
