"""Define the options that several commands share, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from engine.units import parse_seconds, parse_size
from tasks.limits import ATTEMPTS_MAX, BACKOFF, SECONDS_MAX
from tasks.params import BANDWIDTH_MAX, CHANNELS_MAX, GUEST_PAUSE_MAX, parse_compression

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _checked(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a click callback that parses a text, and says what is wrong with one that is not right."""

    def callback(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def _parse_compress(text: str) -> str:
    parse_compression(text)
    return text


def _parse_bandwidth(text: str) -> int:
    rate = parse_size(text)
    if not 1 <= rate <= BANDWIDTH_MAX:
        raise ValueError(f"{text!r} is {rate} bytes a second, want 1 to {BANDWIDTH_MAX}")
    return rate


def _parse_limit(text: str) -> float:
    seconds = parse_seconds(text)
    if not 0 < seconds <= SECONDS_MAX:
        raise ValueError(f"{text!r} is {seconds:g} s, want more than 0 and at most {SECONDS_MAX:.0f} s")
    return seconds


def _parse_guest_pause(text: str) -> float:
    seconds = parse_seconds(text)
    if not 0 < seconds <= GUEST_PAUSE_MAX:
        raise ValueError(f"{text!r} is {seconds:g} s, want more than 0 and at most {GUEST_PAUSE_MAX:.0f} s")
    return seconds


domains_argument: Final = click.argument("domains", metavar="DOMAIN...", nargs=-1, required=True)
host_option: Final = click.option("--host", metavar="HOST", help="Only this host's.")
config_option: Final = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Settings of this machine; default: $FLEETSAVE_CONFIG, else /etc/fleetsave/fleetsave.toml.",
)
dxml_option: Final = click.option(
    "--dxml",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Domain XML to use on restore; only host-specific parts may differ from the guest's.",
)
rewrite_option: Final = click.option(
    "--rewrite",
    "rules",
    metavar="RULES",
    type=click.Path(path_type=Path),
    help="TOML file of rules that make the dxml from the guest's own XML; docs/DXML.md has them.",
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
to_option: Final = click.option(
    "--to", metavar="PATH", help="Image file to make on the host; default: a restore point in its store."
)
compress_option: Final = click.option(
    "--compress",
    metavar="none|zstd[:LEVEL]",
    callback=_checked(_parse_compress),
    help="Compress the memory on its way; virsh restores such images from libvirt 10.4 on.",
)
bandwidth_option: Final = click.option(
    "--bandwidth",
    metavar="RATE",
    callback=_checked(_parse_bandwidth),
    help="Write at most so much a second, such as 400MiB/s.",
)
data_path_option: Final = click.option(
    "--data-path",
    type=click.Choice(["stream", "native"]),
    help="Who moves the bytes: fleetsave (stream, the default), or libvirt itself.",
)
image_format_option: Final = click.option(
    "--image-format", metavar="NAME", help="With --data-path native: libvirt's format, such as sparse."
)
channels_option: Final = click.option(
    "--channels",
    metavar="N",
    type=click.IntRange(1, CHANNELS_MAX),
    help="With --data-path native and format sparse: so many channels in parallel.",
)
guest_pause_option: Final = click.option(
    "--max-guest-pause",
    metavar="TIME",
    callback=_checked(_parse_guest_pause),
    help="Give up when the guest would stand still for longer, such as 2s or 500ms; it goes on.",
)
dry_run_option: Final = click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Look at everything, touch no guest; needs --local."
)


def _limit_option(name: str, text: str) -> Decorator:
    """Return an option that takes a duration."""
    return click.option(name, metavar="TIME", callback=_checked(_parse_limit), help=text)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given, for an order's params."""
    return {name: value for name, value in options.items() if value is not None}


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
            "--attempts",
            metavar="N",
            type=click.IntRange(1, ATTEMPTS_MAX),
            help="Try so often in all while it fails for a passing reason; default: once.",
        ),
        _limit_option(
            "--backoff", f"Before the second attempt, then twice as long each time; {BACKOFF:.0f}s."
        ),
        _limit_option("--max-queue-wait", "Fail rather than begin later, such as 2h."),
        _limit_option("--max-duration", "Stop and fail when it takes longer; the guest is as before."),
        _limit_option("--max-stall", "Stop and fail when nothing moves for so long."),
        click.option(
            "--local", "is_local", is_flag=True, help="Run here and now, without broker and catalog."
        ),
        click.option("--uri", metavar="URI", help="With --local: libvirt connection URI."),
        click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Print nothing but errors."),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def check_name(name: str) -> None:
    """Refuse what can name no host and no operator.

    Raises:
        UsageError: it says what a name is made of.
    """
    from tasks.envelope import is_host_name
    from tasks.errors import UsageError

    if not is_host_name(name):
        raise UsageError(repr(name), "cannot be a name", "letters, digits, dots, dashes, underscores")
