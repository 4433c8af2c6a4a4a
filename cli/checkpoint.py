"""fleetsave checkpoint: take images of guests that go on running."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.command import Command
from cli.operate import operate
from cli.options import (
    bandwidth_option,
    bypass_option,
    compress_option,
    domains_argument,
    dry_run_option,
    given,
    guest_pause_option,
    paused_option,
    place_options,
    running_option,
    store_option,
    to_option,
)
from cli.order import Order

#: Options that the engine is told of.
_PARAMS: Final = (
    "to", "running", "paused", "bypass_cache", "compress", "bandwidth", "max_guest_pause",
)  # fmt: skip


@click.command(
    cls=Command,
    examples=(
        "fleetsave checkpoint web-1 web-2                      a restore point of each; the guests go on",
        "fleetsave checkpoint web-1 --max-guest-pause 500ms    or not at all",
        "fleetsave checkpoint web-1 --compress zstd:9 --bandwidth 200MiB/s",
        "fleetsave checkpoint web-1 --local --to web-1.save    here, without broker and catalog",
        "fleetsave checkpoint web-1 --local --store . --dry-run   what it would take; nothing is touched",
    ),
)
@domains_argument
@to_option
@running_option
@paused_option
@guest_pause_option
@bypass_option
@compress_option
@bandwidth_option
@dry_run_option
@store_option
@place_options
def checkpoint(domains: tuple[str, ...], *, is_dry_run: bool, **options: Any) -> int:
    """Write the memory of running guests to images; the guests go on, after a moment's pause at the end.

    Disks are not part of it: a guest that has any is restored only together with the disks of that
    very instant. fleetsave restore starts a copy from the image.
    """
    params = given(**{name: options.pop(name) for name in _PARAMS})
    order = Order(op="checkpoint", domains=domains, params=params, **options)
    return operate(order, is_dry_run=is_dry_run)
