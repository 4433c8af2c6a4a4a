"""Parse a file of rewrite rules: TOML in, checked rules out."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final

from engine.domxml.kinds.chardev import CHANNEL, CONSOLE, PARALLEL, SERIAL
from engine.domxml.kinds.disk import DISK
from engine.domxml.kinds.domain import EMULATOR, LIFECYCLE, SECLABEL
from engine.domxml.kinds.graphics import GRAPHICS
from engine.domxml.kinds.hostdev import HOSTDEV
from engine.domxml.kinds.interface import INTERFACE
from engine.domxml.kinds.kind import Kind
from engine.domxml.pattern import Pattern, Template, parse_pattern, shorten
from engine.errors import DomainXmlError

#: Bytes of a file of rules.
RULES_SIZE_MAX: Final = 1024 * 1024
#: Rules in one file; each is tried on every element of its kind.
RULES_MAX: Final = 1000

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        DISK, INTERFACE, GRAPHICS, HOSTDEV, SERIAL, PARALLEL, CONSOLE, CHANNEL, EMULATOR, SECLABEL,
    )
}  # fmt: skip
_FLAGS: Final = ("optional", "remove")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Elements that are meant, and what becomes of them."""

    #: As people find it in the file: "[[disk]] number 1".
    name: str
    kind: Kind
    #: Key -> what its value has to be; all of them have to fit.
    patterns: Mapping[str, Pattern]
    #: Key of `set` -> new value.
    values: Mapping[str, Template]
    is_removal: bool = False
    #: It may match nothing.
    is_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """The rules of one file; all look at the XML as it was before any of them."""

    #: Where they came from, named in errors.
    where: str
    rules: tuple[Rule, ...] = ()


def parse_rules(text: str, *, where: str) -> RuleSet:
    """Return the rules of a TOML text.

    Args:
        text: TOML, at most RULES_SIZE_MAX bytes, at most RULES_MAX rules.
        where: file or option that it came from, named in errors.

    Raises:
        DomainXmlError: no TOML, too large, or a rule is not right; it names the rule and the key.
    """
    size = len(text.encode(errors="surrogatepass"))
    if size > RULES_SIZE_MAX:
        raise DomainXmlError(where, f"{size} bytes of rules", f"at most {RULES_SIZE_MAX}")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DomainXmlError(where, f"no TOML: {error}", "a file of rules") from error
    rules: list[Rule] = []
    for key, value in document.items():
        rules += _read_tables(key, value, where)
    if len(rules) > RULES_MAX:
        raise DomainXmlError(where, f"{len(rules)} rules", f"at most {RULES_MAX}")
    return RuleSet(where=where, rules=tuple(rules))


def _read_tables(key: str, value: Any, where: str) -> Iterator[Rule]:
    """Yield the rules of one key of the file: a line, a table, or several tables."""
    if key in LIFECYCLE:
        yield _read_line(LIFECYCLE[key], value, where)
        return
    kind = KINDS.get(key)
    if kind is None:
        raise _unknown(key, (*KINDS, *LIFECYCLE), where)
    tables = value if isinstance(value, list) else [value]
    for number, table in enumerate(tables, 1):
        name = f"[[{key}]] number {number}" if isinstance(value, list) else f"[{key}]"
        if not isinstance(table, dict):
            raise DomainXmlError(where, f"{key} = {shorten(table)}", f"a table, [[{key}]]")
        yield _read_rule(kind, name, table, f"{where}, {name}")


def _read_line(kind: Kind, value: Any, where: str) -> Rule:
    try:
        text = kind.settings[kind.name].read(value)
    except ValueError as error:
        raise _wrong(f"{where}, {kind.name}", "is", error) from error
    return Rule(name=kind.name, kind=kind, patterns={}, values={kind.name: Template(text=text)})


def _read_rule(kind: Kind, name: str, table: Mapping[str, Any], where: str) -> Rule:
    flags = {flag: _read_flag(table.get(flag, False), flag, where) for flag in _FLAGS}
    patterns = dict(_read_patterns(kind, table, where))
    values = table.get("set", {})
    if not isinstance(values, dict):
        raise DomainXmlError(where, f"set is {shorten(values)}", "a table, such as { type = ... }")
    groups = frozenset[str]().union(*(pattern.groups for pattern in patterns.values()))
    settings = dict(_read_settings(kind, values, groups, where))
    if flags["remove"] and not kind.is_removable:
        raise DomainXmlError(where, "remove = true", "it on [[seclabel]] only", "the guest would see it")
    has_replace = any(pattern.replace is not None for pattern in patterns.values())
    if not (has_replace or settings or flags["remove"]):
        raise DomainXmlError(where, "it changes nothing", "a replace beside a pattern, or a set")
    if flags["remove"] and (has_replace or settings):
        raise DomainXmlError(where, "remove = true beside new values", "one of the two")
    return Rule(
        name=name,
        kind=kind,
        patterns=patterns,
        values=settings,
        is_removal=flags["remove"],
        is_optional=flags["optional"],
    )


def _read_flag(value: Any, name: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise DomainXmlError(where, f"{name} is {shorten(value)}", "true or false")
    return value


def _read_patterns(kind: Kind, table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Pattern]]:
    for name, value in _flatten(kind, table, where):
        key = kind.keys.get(name)
        if key is None:
            raise _unknown(name, (*kind.keys, "set", *_FLAGS), where)
        try:
            pattern = parse_pattern(value, is_replaceable=key.is_replaceable, ignores_case=key.ignores_case)
            if key.read is not None and pattern.way == "exact":
                pattern = replace(
                    pattern, text=key.read(value["exact"] if isinstance(value, dict) else value)
                )
        except ValueError as error:
            raise _wrong(where, f"key {name} is", error) from error
        yield name, pattern


def _flatten(kind: Kind, table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys that select; source = { network = ... } is the key source.network."""
    folders = {name.partition(".")[0] for name in kind.keys if "." in name}
    for name, value in table.items():
        if name in folders:
            if not isinstance(value, dict) or not value:
                known = ", ".join(key.partition(".")[2] for key in kind.keys if key.startswith(f"{name}."))
                raise DomainXmlError(where, f"key {name} is {shorten(value)}", f"a table of {known}")
            yield from ((f"{name}.{inner}", one) for inner, one in value.items())
        elif name not in {*_FLAGS, "set"}:
            yield name, value


def _read_settings(
    kind: Kind, values: Mapping[str, Any], groups: frozenset[str], where: str
) -> Iterator[tuple[str, Template]]:
    texts = {}
    for name, value in values.items():
        setting = kind.settings.get(name)
        if setting is None:
            raise _unknown(f"set.{name}", tuple(f"set.{known}" for known in kind.settings), where)
        try:
            texts[name] = setting.read(value)
            yield name, Template(text=texts[name], groups=groups)
        except ValueError as error:
            raise _wrong(where, f"key set.{name} is", error) from error
    try:
        kind.check(texts)
    except ValueError as error:
        raise _wrong(where, "key set is", error) from error


def _wrong(where: str, what: str, error: ValueError) -> DomainXmlError:
    found, _, wanted = str(error).rpartition(", want ")
    return DomainXmlError(where, f"{what} {found}", wanted)


def _unknown(name: str, known: tuple[str, ...], where: str) -> DomainXmlError:
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else ""
    return DomainXmlError(where, f"unknown key {shorten(name)}", f"one of {', '.join(known)}", hint)
