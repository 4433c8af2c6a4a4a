"""fleetsave hosts drain and undrain: take a host out of service, and back."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from cli.command import Command
from cli.output import plain_view, print_json


@click.command(cls=Command, examples=("fleetsave hosts drain kvm1",))
@click.argument("host", metavar="HOST")
def drain(*, host: str, as_json: bool) -> None:
    """Have a host finish the jobs it runs and take no more, until it is undrained.

    Jobs for it stay queued meanwhile. It stays drained when its worker or Redis is started anew.
    """
    _drain(host, drain=True, as_json=as_json)


@click.command(cls=Command, examples=("fleetsave hosts undrain kvm1",))
@click.argument("host", metavar="HOST")
def undrain(*, host: str, as_json: bool) -> None:
    """Have a host take jobs again: first those that are queued."""
    _drain(host, drain=False, as_json=as_json)


def _drain(name: str, *, drain: bool, as_json: bool) -> None:
    """Tell the host, and say how it stands."""
    from cli.control import open_control
    from cli.hosts import describe_drain
    from tasks.catalog import queries
    from tasks.drain import drain_host
    from tasks.states import UNFINISHED

    with open_control() as control:
        control.catch_up_if_possible()
        host = drain_host(control.catalog, control.redis, name, drain=drain, now=datetime.now(UTC))
        jobs = queries.list_jobs(control.catalog, states=UNFINISHED, host=name)
    if as_json:
        print_json({"host": plain_view(host), "jobs": [plain_view(job) for job in jobs]})
    elif drain:
        click.echo(f"{name}: takes no more jobs ({describe_drain(host, jobs)})")
    else:
        click.echo(f"{name}: takes jobs again ({describe_drain(host, jobs)})")
