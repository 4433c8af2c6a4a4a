"""fleetsave dump: write guests' memory into core files."""

from __future__ import annotations

from typing import Any, Final

import click

from cli.command import Command
from cli.operate import operate
from cli.options import bypass_option, domains_argument, given, place_options
from cli.order import Order
from tasks.params import DUMP_FORMATS

#: Options that the engine is told of.
_PARAMS: Final = ("to", "format", "memory_only", "crash", "live", "reset", "bypass_cache")


@click.command(
    cls=Command,
    examples=(
        "fleetsave dump web-1 --to /srv/dumps/web-1.core --memory-only   for crash and gdb",
        "fleetsave dump web-1 --to /srv/dumps/web-1.core --memory-only --format kdump-zlib",
        "fleetsave dump web-1 --to /srv/dumps/web-1.core --live          the guest runs on meanwhile",
        "fleetsave dump web-1 --to web-1.core --memory-only --crash --local",
    ),
)
@domains_argument
@click.option("--to", metavar="PATH", required=True, help="Core file to make on the host.")
@click.option(
    "--format",
    type=click.Choice(list(DUMP_FORMATS)),
    default="raw",
    show_default=True,
    help="Of the core file; all but raw need --memory-only.",
)
@click.option("--memory-only", is_flag=True, help="Memory and registers in a form that crash and gdb read.")
@click.option("--crash", is_flag=True, help="Leave the guest crashed.")
@click.option("--live", is_flag=True, help="Do not pause the guest for the dump.")
@click.option("--reset", is_flag=True, help="Reset the guest afterwards.")
@bypass_option
@place_options
def dump(domains: tuple[str, ...], **options: Any) -> int:
    """Write the memory of active domains into core files, for somebody to look into.

    Without --crash, --live or --reset the guest is paused meanwhile and goes on afterwards. A core
    file cannot be restored.
    """
    params = given(**{name: options.pop(name) for name in _PARAMS})
    return operate(Order(op="dump", domains=domains, params=params, **options))
