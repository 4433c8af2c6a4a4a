"""fleetsave hosts: the hypervisor nodes as they last reported."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from cli.command import Command, Group
from cli.output import NOTHING, format_age, format_bytes, plain_view, print_json, print_table
from tasks.states import UNFINISHED, JobState

if TYPE_CHECKING:
    from tasks.catalog import HostView, JobView

_WORDS: Final = {True: "up", False: "down", None: NOTHING}


@click.group(
    cls=Group,
    lazy={"list": "cli.hosts:list_", "drain": "cli.drain:drain", "undrain": "cli.drain:undrain"},
    examples=(
        "fleetsave hosts list",
        "fleetsave hosts drain kvm1                            it finishes what runs and takes no more",
        "fleetsave hosts undrain kvm1",
    ),
)
def hosts() -> None:
    """Look at the hosts of the fleet, and take them out of service."""


@click.command("list", cls=Command, examples=("fleetsave hosts list", "fleetsave hosts list --json"))
def list_(*, as_json: bool) -> None:
    """List the hosts that ever reported, with what they last said."""
    from cli.control import open_control
    from tasks.catalog import queries

    with open_control() as control:
        control.catch_up_if_possible()
        found = queries.list_hosts(control.catalog)
        domains = queries.list_domains(control.catalog)
        jobs = queries.list_jobs(control.catalog, states=UNFINISHED)
    if as_json:
        print_json({"hosts": [plain_view(host) for host in found]})
        return
    now = datetime.now(UTC)
    rows = [
        (
            host.name,
            _WORDS[host.libvirt_up],
            describe_drain(host, jobs),
            str(sum(domain.host == host.name for domain in domains)),
            format_age(host.seen_at, now),
            format_bytes(host.store_free_bytes),
            host.store or NOTHING,
            host.worker_version or NOTHING,
        )
        for host in found
    ]
    columns = ("host", "libvirt", "jobs", "domains", "seen ago", "store free", "store", "fleetsave")
    print_table(columns, rows, right=("domains", "seen ago", "store free"))


def describe_drain(host: HostView, jobs: Sequence[JobView]) -> str:
    """Say whether the host takes jobs, and what it still runs or has waiting."""
    mine = [job for job in jobs if job.host == host.name]
    waiting = sum(job.state is JobState.QUEUED for job in mine)
    counts = ((len(mine) - waiting, "running"), (waiting, "queued"))
    parts = [f"{count} {word}" for count, word in counts if count]
    if host.drain_requested_at is not None:
        parts.insert(0, "draining" if len(mine) > waiting or not host.draining else "drained")
    return ", ".join(parts) or NOTHING
