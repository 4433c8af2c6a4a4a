"""fleetsave hosts: the hypervisor nodes as they last reported."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import click

from cli.command import Command, Group
from cli.output import NOTHING, format_age, format_bytes, plain_view, print_json, print_table

_WORDS: Final = {True: "up", False: "down", None: NOTHING}


@click.group(
    cls=Group,
    lazy={"list": "cli.hosts:list_"},
    examples=("fleetsave hosts list", "fleetsave hosts list --json"),
)
def hosts() -> None:
    """Look at the hosts of the fleet."""


@click.command("list", cls=Command, examples=("fleetsave hosts list", "fleetsave hosts list --json"))
def list_(*, as_json: bool) -> None:
    """List the hosts that ever reported, with what they last said."""
    from cli.control import open_control
    from tasks.catalog import queries

    with open_control() as control:
        control.catch_up_if_possible()
        found = queries.list_hosts(control.catalog)
        domains = queries.list_domains(control.catalog)
    if as_json:
        print_json({"hosts": [plain_view(host) for host in found]})
        return
    now = datetime.now(UTC)
    rows = [
        (
            host.name,
            _WORDS[host.libvirt_up],
            str(sum(domain.host == host.name for domain in domains)),
            format_age(host.seen_at, now),
            format_bytes(host.store_free_bytes),
            host.store or NOTHING,
            host.worker_version or NOTHING,
        )
        for host in found
    ]
    columns = ("host", "libvirt", "domains", "seen ago", "store free", "store", "fleetsave")
    print_table(columns, rows, right=("domains", "seen ago", "store free"))
