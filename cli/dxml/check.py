"""fleetsave dxml check: would libvirt restore a guest with another domain XML, and if not, why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from cli.command import Command
from cli.dxml.origin import read_domain_xml
from cli.failure import printable
from cli.output import NOTHING, plain_view, print_json
from cli.textfile import name_of, read_text
from engine.domxml.abi.table import Version
from engine.domxml.compare import LIBVIRT, Comparison, compare
from engine.domxml.difference import Difference
from engine.domxml.document import XML_SIZE_MAX, parse_domain_xml
from engine.errors import AbiError

#: Characters of a value that are shown to people.
_SHOWN_MAX: Final = 100
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", re.ASCII)


def _parse_version(_context: click.Context, _option: click.Parameter, text: str) -> Version:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no version, want such as 11.3.0")
    return int(match[1]), int(match[2]), int(match[3] or 0)


@click.command(
    "check",
    cls=Command,
    examples=(
        "fleetsave dxml check saved.xml new.xml",
        "fleetsave dxml check web-1.save new.xml            what the guest was saved with",
        "fleetsave dxml check saved.xml new.xml --libvirt 9.0.0 --json",
    ),
)
@click.argument("old", metavar="OLD", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("new", metavar="NEW.xml", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--libvirt",
    metavar="VERSION",
    default=".".join(map(str, LIBVIRT)),
    show_default=True,
    callback=_parse_version,
    help="Version of the libvirt that shall restore the guest.",
)
def check(old: Path, new: Path, *, libvirt: Version, as_json: bool) -> int:
    """Compare two domain XMLs as libvirt does before it restores a guest; exit code 11 if it would refuse.

    OLD is what the guest was saved with: a save image, the directory of a restore point, or a file
    of domain XML, best from `virsh dumpxml --migratable --security-info`. Either may be - for
    standard input.
    """
    before, is_image = read_domain_xml(old)
    after = read_text(new, what="domain XML", size_max=XML_SIZE_MAX)
    found = compare(
        parse_domain_xml(before, where=name_of(old)),
        parse_domain_xml(after, where=name_of(new)),
        libvirt=libvirt,
        is_image=is_image,
    )
    if as_json:
        print_json({"stable": found.stable, "differences": [plain_view(one) for one in found.differences]})
    else:
        for line in _lines(found):
            click.echo(line)
    return 0 if found.stable else AbiError.exit_code


def _lines(found: Comparison) -> Iterator[str]:
    """Yield what people read: what is refused, what is allowed, and the verdict."""
    for is_refused, title in ((True, "refused"), (False, "allowed")):
        for one in found.differences:
            if one.guest_visible is is_refused:
                yield f"{title}  {_place(one)}"
                yield f"         {_shown(one.old)} -> {_shown(one.new)}: {one.reason}"
    refused = sum(one.guest_visible for one in found.differences)
    allowed = len(found.differences) - refused
    if refused:
        yield f"NOT STABLE: the guest would notice {_count(refused)}; {allowed} more allowed"
    elif allowed:
        yield f"stable: {_count(allowed)}, none of which libvirt refuses"
    else:
        yield "stable: no difference"


def _place(one: Difference) -> str:
    if one.xpath and one.new_xpath and one.xpath != one.new_xpath:
        return printable(f"{one.xpath} (now {one.new_xpath})")
    return printable(one.xpath or one.new_xpath or NOTHING)


def _shown(value: str | None) -> str:
    if value is None:
        return NOTHING
    text = printable(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _count(number: int) -> str:
    return f"{number} difference{'' if number == 1 else 's'}"
