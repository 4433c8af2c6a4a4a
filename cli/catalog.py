"""fleetsave catalog: bring its tables up to date, find lost restore points again, forget old history."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.command import Command, Group
from cli.options import check_name
from cli.output import format_time, print_json

if TYPE_CHECKING:
    from tasks.catalog.rebuild import Rebuilt

#: Exit status where some of what was found could not be read.
_PARTLY: Final = 3


@click.group(
    cls=Group,
    lazy={"migrate": "cli.catalog:migrate", "rebuild": "cli.catalog:rebuild", "prune": "cli.catalog:prune"},
    examples=(
        "fleetsave catalog migrate                             after an update of fleetsave",
        "fleetsave catalog rebuild --store /srv/fleetsave --host kvm1",
        "fleetsave catalog prune --older-than 90d --dry-run    what would be forgotten",
    ),
)
def catalog() -> None:
    """Look after the catalog's database (catalog_url in the settings)."""


@click.command(cls=Command, examples=("fleetsave catalog migrate", "fleetsave catalog migrate --json"))
def migrate(*, as_json: bool) -> None:
    """Bring the catalog's tables to the layout of this version; nothing if they have it.

    Every other command does so too when it opens the catalog. Jobs and restore points stay.
    """
    from tasks.catalog.migrate import find_revision, migrate
    from tasks.config import load_settings

    url = load_settings().catalog_url
    before = find_revision(url)
    migrate(url)
    after = find_revision(url)
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        click.echo(f"the catalog is at {after}")
    else:
        click.echo(f"the catalog went from {before or 'nothing'} to {after}")


@click.command(
    cls=Command,
    examples=(
        "fleetsave catalog rebuild                             this host's own store, as its settings say",
        "fleetsave catalog rebuild --store /srv/fleetsave --host kvm1",
        "fleetsave catalog rebuild --store /mnt/a --store /mnt/b --host kvm1 --json",
    ),
)
@click.option(
    "--store",
    "stores",
    metavar="DIR",
    type=click.Path(path_type=Path, resolve_path=True),
    multiple=True,
    help="A directory with restore points or images; may be given again. Default: the store in [host].",
)
@click.option("--host", metavar="HOST", help="Whose they are; default: the name in [host].")
def rebuild(*, stores: tuple[Path, ...], host: str | None, as_json: bool) -> int:
    """Bring restore points into the catalog from the manifests beside their images.

    Adds what the catalog does not know and changes nothing else; run it as often as you like. What cannot be
    read is named, and the exit code is 3 then.
    """
    from cli.control import open_control
    from tasks.catalog.rebuild import find_points
    from tasks.catalog.rebuild import rebuild as add_points
    from tasks.errors import UsageError

    with open_control() as control:
        own = control.settings.host
        places = stores or ((own.store,) if own.store else ())
        if not places:
            raise UsageError("catalog rebuild", "no store", "--store DIR, or a store in [host]")
        name = own.name if host is None else host
        check_name(name)
        wanted = dict.fromkeys(places)
        found = {str(store): add_points(control.catalog, name, find_points(store)) for store in wanted}
    if as_json:
        print_json({"host": name, "stores": [{"store": key, **asdict(one)} for key, one in found.items()]})
    else:
        for place, one in found.items():
            _tell_rebuilt(place, one)
    return _PARTLY if any(one.unreadable for one in found.values()) else 0


@click.command(
    cls=Command,
    examples=(
        "fleetsave catalog prune --older-than 90d --dry-run",
        "fleetsave catalog prune --older-than 52w",
    ),
)
@click.option("--older-than", metavar="AGE", required=True, help="Jobs that ended longer ago: 90d, 12w, 36h.")
@click.option("--dry-run", is_flag=True, help="Only count what would be forgotten.")
def prune(*, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Forget jobs that ended long ago, with their events and attempts.

    Never a job that is not finished, never a restore point.
    """
    from cli.control import open_control
    from tasks.catalog.prune import count_prunable
    from tasks.catalog.prune import prune as forget

    before = datetime.now(UTC) - _parse_age(older_than)
    with open_control() as control:
        pruned = (count_prunable if dry_run else forget)(control.catalog, before=before)
    if as_json:
        print_json({"before": before, "dry_run": dry_run, **asdict(pruned)})
        return
    verb = "would forget" if dry_run else "forgot"
    click.echo(
        f"{verb} {pruned.jobs} jobs that ended before {format_time(before)},"
        f" {pruned.attempts} attempts, {pruned.events} events"
    )


_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
#: Digits of an age: what is older than some centuries is no age.
_DIGITS_MAX: Final = 5


def _parse_age(text: str) -> timedelta:
    """Return the age that the text means."""
    digits, unit = text[:-1], _UNITS.get(text[-1:])
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX
    if unit is None or not is_number or int(digits) == 0:
        raise click.BadParameter(f"{text!r}, want a number and h, d or w: 90d", param_hint="--older-than")
    return int(digits) * unit


def _tell_rebuilt(place: str, one: Rebuilt) -> None:
    """Say what was found in one store."""
    click.echo(f"{place}: {one.added} restore points added, {one.known} known before")
    for left in one.unreadable:
        click.echo(f"  cannot read {left.path}: {left.reason}")
