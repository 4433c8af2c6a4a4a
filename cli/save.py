"""fleetsave save: write guests' memory to images and end them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from cli.command import Command
from cli.operate import operate
from cli.options import (
    bandwidth_option,
    bypass_option,
    channels_option,
    compress_option,
    data_path_option,
    domains_argument,
    dry_run_option,
    dxml_option,
    given,
    image_format_option,
    paused_option,
    place_options,
    rewrite_option,
    running_option,
    store_option,
    to_option,
)
from cli.order import Order, read_dxml, read_rules

#: Options that the engine is told of.
_PARAMS: Final = (
    "to", "running", "paused", "bypass_cache", "compress", "bandwidth", "data_path", "image_format",
    "channels",
)  # fmt: skip


@click.command(
    cls=Command,
    examples=(
        "fleetsave save web-1                                  a restore point in its host's store",
        "fleetsave save web-1 web-2 db-1                       several at once, wherever they run",
        "fleetsave save web-1 --to /srv/images/web-1.save      one image file on web-1's host",
        "fleetsave save web-1 --dxml new.xml --paused          changed for the restore, and paused then",
        "fleetsave save web-1 --rewrite to-kvm2.toml           changed by rules: renamed disks, say",
        "fleetsave save web-1 --compress zstd --bandwidth 400MiB/s   smaller, and no faster than that",
        "fleetsave save web-1 --data-path native --image-format sparse --channels 4",
        "fleetsave save web-1 --local --to web-1.save --json   here, without broker and catalog",
        "fleetsave save web-1 --local --to web-1.save --dry-run   what it would take; nothing is touched",
    ),
)
@domains_argument
@to_option
@dxml_option
@rewrite_option
@running_option
@paused_option
@bypass_option
@compress_option
@bandwidth_option
@data_path_option
@image_format_option
@channels_option
@dry_run_option
@store_option
@place_options
def save(
    domains: tuple[str, ...], *, dxml: Path | None, rules: Path | None, is_dry_run: bool, **options: Any
) -> int:
    """Save running or paused domains: whole, checked and durable, or not at all.

    A guest that was saved has ended; fleetsave restore starts it again where it was. A save that
    fails leaves the guest as it was.
    """
    params = given(**{name: options.pop(name) for name in _PARAMS})
    order = Order(op="save", domains=domains, params=params, **options)
    return operate(order, dxml=read_dxml(dxml), rules=read_rules(rules), is_dry_run=is_dry_run)
