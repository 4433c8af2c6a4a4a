"""fleetsave domains: the guests' definitions as last seen on the hosts."""

from __future__ import annotations

import click

from cli.command import Command, Group
from cli.options import host_option
from cli.output import format_bytes, plain_view, print_json, print_table


@click.group(
    cls=Group,
    lazy={"list": "cli.domains:list_"},
    examples=("fleetsave domains list", "fleetsave domains list --host alpha --json"),
)
def domains() -> None:
    """Look at the domains of the fleet."""


@click.command(
    "list",
    cls=Command,
    examples=(
        "fleetsave domains list",
        "fleetsave domains list --host alpha",
        "fleetsave domains list --json",
    ),
)
@host_option
def list_(*, host: str | None, as_json: bool) -> None:
    """List the domains as their hosts last saw them; "saved" ones have a managed save image."""
    from cli.control import open_control
    from tasks.catalog import queries

    with open_control() as control:
        control.catch_up_if_possible()
        found = queries.list_domains(control.catalog, host=host)
    if as_json:
        print_json({"domains": [plain_view(domain) for domain in found]})
        return
    rows = [
        (
            domain.name,
            domain.host,
            domain.state,
            format_bytes(domain.memory_bytes),
            "yes" if domain.has_managed_save else "",
            " ".join(domain.tags),
            domain.uuid,
        )
        for domain in found
    ]
    columns = ("domain", "host", "state", "memory", "saved", "tags", "uuid")
    print_table(columns, rows, right=("memory",))
