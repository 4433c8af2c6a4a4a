"""Define the options that several commands share, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

domains_argument: Final = click.argument("domains", metavar="DOMAIN...", nargs=-1, required=True)
host_option: Final = click.option("--host", metavar="HOST", help="Only this host's.")
dxml_option: Final = click.option(
    "--dxml",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Domain XML to use on restore; only host-specific parts may differ from the guest's.",
)
bypass_option: Final = click.option(
    "--bypass-cache",
    type=click.Choice(["require", "prefer", "off"]),
    default="require",
    show_default=True,
    help="Keep the image out of the page cache: do so or fail, do so where possible, or do not.",
)
running_option: Final = click.option(
    "--running", is_flag=True, help="The restored guest runs, whatever it did when it was saved."
)
paused_option: Final = click.option(
    "--paused", is_flag=True, help="The restored guest is paused, whatever it did when it was saved."
)
store_option: Final = click.option(
    "--store",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="With --local: directory of restore points.",
)


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where an operation runs and how it is reported."""
    decorators: tuple[Decorator, ...] = (
        click.option(
            "--host", metavar="HOST", help="Run on this host; default: the host that has the domain."
        ),
        click.option(
            "--wait/--no-wait",
            "is_waiting",
            default=True,
            help="Wait until it is done (default), or print the job's id and leave.",
        ),
        click.option(
            "--local", "is_local", is_flag=True, help="Run here and now, without broker and catalog."
        ),
        click.option("--uri", metavar="URI", help="With --local: libvirt connection URI."),
        click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Print nothing but errors."),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function
