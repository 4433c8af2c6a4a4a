"""fleetsave managed-save and start: let libvirt keep the image until the next start."""

from __future__ import annotations

from typing import Any

import click

from cli.command import Command
from cli.operate import operate
from cli.options import bypass_option, domains_argument, paused_option, place_options, running_option
from cli.order import Order
from tasks.errors import UsageError


@click.command(
    "managed-save",
    cls=Command,
    examples=(
        "fleetsave managed-save web-1 web-2                    before a host is rebooted",
        "fleetsave managed-save web-1 --paused                 the next start leaves it paused",
        "fleetsave managed-save web-1 --remove                 throw the image away: the next start boots",
        "fleetsave managed-save web-1 --local                  here, without broker and catalog",
    ),
)
@domains_argument
@click.option("--remove", is_flag=True, help="Save nothing: throw the image away that libvirt keeps.")
@running_option
@paused_option
@bypass_option
@place_options
def managed_save(
    domains: tuple[str, ...], *, remove: bool, running: bool, paused: bool, bypass_cache: str, **place: Any
) -> int:
    """Save domains where libvirt keeps such images; the next start of a domain takes its image up."""
    if remove:
        if running or paused:
            raise UsageError("--remove", "saves nothing that could be running or paused", "--remove alone")
        return operate(Order(op="managed-save-remove", domains=domains, **place))
    params = {"bypass_cache": bypass_cache, "running": running, "paused": paused}
    return operate(Order(op="managed-save", domains=domains, params=params, **place))


@click.command(
    cls=Command,
    examples=(
        "fleetsave start web-1 web-2                           from their managed save images, or boot",
        "fleetsave start web-1 --force-boot                    boot; a managed save image is thrown away",
        "fleetsave start web-1 --local                         here, without broker and catalog",
        "fleetsave start web-1 --local --autodestroy           until Ctrl-C, then it is destroyed",
    ),
)
@domains_argument
@click.option("--paused", is_flag=True, help="Leave the guest paused.")
@click.option("--force-boot", is_flag=True, help="Throw a managed save image away and boot.")
@click.option("--autodestroy", is_flag=True, help="With --local: the guest ends with this command.")
@bypass_option
@place_options
def start(
    domains: tuple[str, ...],
    *,
    paused: bool,
    force_boot: bool,
    autodestroy: bool,
    bypass_cache: str,
    **place: Any,
) -> int:
    """Start domains, each from its managed save image where it has one.

    A damaged managed save image is refused and kept, where libvirt would boot without a word.
    """
    params: dict[str, Any] = {"bypass_cache": bypass_cache, "paused": paused, "force_boot": force_boot}
    if autodestroy:
        params["autodestroy"] = True
    return operate(Order(op="start", domains=domains, params=params, **place))
