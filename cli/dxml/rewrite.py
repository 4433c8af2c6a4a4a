"""fleetsave dxml rewrite: print domain XML as rules want it."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import click

from cli.command import Command
from cli.dxml.origin import read_domain_xml
from cli.output import print_json
from cli.textfile import name_of, read_text
from engine.domxml.compare import list_differences
from engine.domxml.document import parse_domain_xml
from engine.domxml.edit.draft import RuleChange
from engine.domxml.identity import derive_identity, rename_domain
from engine.domxml.rewrite import Check
from engine.domxml.rewrite import rewrite as rewrite_by_rules
from engine.domxml.rules import RULES_SIZE_MAX, parse_rules
from engine.domxml.secrets import hide_in_text
from tasks.errors import UsageError

_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}


@click.command(
    "rewrite",
    cls=Command,
    examples=(
        "fleetsave dxml rewrite web-1.xml --rules to-kvm2.toml > new.xml",
        "fleetsave dxml rewrite web-1.save --rules to-kvm2.toml --diff      an image's XML; see first",
        "fleetsave dxml rewrite web-1.save --as web-2 > copy.xml            for a copy beside the original",
        "fleetsave dxml rewrite - --rules to-kvm2.toml --json < web-1.xml   changes, rule by rule",
    ),
)
@click.argument("xml", metavar="XML", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--rules",
    metavar="RULES.toml",
    type=click.Path(path_type=Path),
    help="What is to be changed; docs/DXML.md has an example of every rule.",
)
@click.option(
    "--as",
    "new_name",
    metavar="NAME",
    help="Give it this name, and a UUID and MAC addresses that go with it.",
)
@click.option("--diff", "is_diff", is_flag=True, help="Print what would change, with passwords hidden.")
def rewrite(xml: Path, *, rules: Path | None, new_name: str | None, is_diff: bool, as_json: bool) -> None:
    """Print domain XML as the rules want it; what they do not name stays as it is, to the character.

    XML is a file of domain XML, - for standard input, a save image, or the directory of a restore
    point. Passwords in it are in what is printed, too, except with --diff.

    Each rule has to match something unless it says optional = true; two rules that want different
    values in one place are refused (exit code 10), and so is what the guest would see (11).
    """
    if rules is None and new_name is None:
        raise UsageError("dxml rewrite", "nothing to do", "--rules or --as, or both")
    if is_diff and as_json:
        raise UsageError("--diff and --json", "exclude each other", "at most one of them")
    old, is_image = read_domain_xml(xml)
    check = partial(list_differences, is_image=is_image)
    new, changes = _rewritten(old, rules, new_name, where=name_of(xml), check=check)
    if as_json:
        print_json({"xml": new, "changes": [asdict(change) for change in changes]})
    elif is_diff:
        _print_diff(
            hide_in_text(old, where=name_of(xml)), hide_in_text(new, where=name_of(xml)), name_of(xml)
        )
    else:
        # Bytes: whatever the terminal's encoding, whatever line ends the XML has.
        click.echo(new.encode(), nl=False)


def _rewritten(
    text: str, rules: Path | None, new_name: str | None, *, where: str, check: Check
) -> tuple[str, tuple[RuleChange, ...]]:
    """Return the new XML and all changes: by the rules, which leave the domain the same, then by the name."""
    changes: tuple[RuleChange, ...] = ()
    if rules is not None:
        rule_set = parse_rules(read_text(rules, what="rules", size_max=RULES_SIZE_MAX), where=name_of(rules))
        done = rewrite_by_rules(text, rule_set, where=where, check=check)
        text, changes = done.xml, done.changes
    if new_name is not None:
        identity = derive_identity(parse_domain_xml(text, where=where), new_name, where=where)
        done = rename_domain(text, identity, where=where)
        text, changes = done.xml, (*changes, *done.changes)
    return text, changes


def _print_diff(old: str, new: str, name: str) -> None:
    """Print a unified diff, in colours on a terminal."""
    for line in difflib.unified_diff(_lines(old), _lines(new), name, f"{name} (rewritten)"):
        text = "".join(char if char.isprintable() or char in "\t\n\r" else ascii(char)[1:-1] for char in line)
        is_head = text.startswith(("--- ", "+++ "))
        click.echo(
            click.style(text, fg=None if is_head else _COLOURS.get(text[:1]), bold=is_head or None),
            nl=False,
        )


def _lines(text: str) -> list[str]:
    """Return the lines as diff wants them: only a line feed ends one, and a last one without says so."""
    lines = [f"{line}\n" for line in text.split("\n")]
    last = lines.pop()
    return lines if last == "\n" else [*lines, f"{last}\\ No newline at end of file\n"]
