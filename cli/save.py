"""fleetsave save: write guests' memory to images and end them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.command import Command
from cli.operate import operate
from cli.options import (
    bypass_option,
    domains_argument,
    dxml_option,
    paused_option,
    place_options,
    running_option,
    store_option,
)
from cli.order import Order, read_dxml


@click.command(
    cls=Command,
    examples=(
        "fleetsave save web-1                                  a restore point in its host's store",
        "fleetsave save web-1 web-2 db-1                       several at once, wherever they run",
        "fleetsave save web-1 --to /srv/images/web-1.save      one image file on web-1's host",
        "fleetsave save web-1 --dxml new.xml --paused          changed for the restore, and paused then",
        "fleetsave save web-1 --local --to web-1.save --json   here, without broker and catalog",
    ),
)
@domains_argument
@click.option(
    "--to", metavar="PATH", help="Image file to make on the host; default: a restore point in its store."
)
@dxml_option
@running_option
@paused_option
@bypass_option
@store_option
@place_options
def save(
    domains: tuple[str, ...],
    *,
    to: str | None,
    dxml: Path | None,
    running: bool,
    paused: bool,
    bypass_cache: str,
    **place: Any,
) -> int:
    """Save running or paused domains: whole, checked and durable, or not at all.

    A guest that was saved has ended; fleetsave restore starts it again where it was. A save that
    fails leaves the guest as it was.
    """
    params: dict[str, Any] = {"bypass_cache": bypass_cache, "running": running, "paused": paused}
    if to is not None:
        params["to"] = to
    order = Order(op="save", domains=domains, params=params, **place)
    return operate(order, dxml=read_dxml(dxml))
