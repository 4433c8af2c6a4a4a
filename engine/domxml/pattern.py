"""Say which values a rule means, and what becomes of them.

Every check raises ValueError with "<what is>, want <what should be>"; whoever knows the rule adds where.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Final, Literal

#: Characters of a value that a pattern is tried on: the longest path that Linux takes.
VALUE_SIZE_MAX: Final = 4096
#: Characters of a pattern or a new value.
PATTERN_SIZE_MAX: Final = 1024

Way = Literal["exact", "prefix", "regex"]
_WAYS: Final[tuple[Way, ...]] = ("exact", "prefix", "regex")
_NONCHARACTERS: Final = "\ufffe\uffff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A new value, with the named groups of a regex in it: /mnt/{vm}/."""

    text: str
    #: Names of groups that it may hold; where there are none, braces are nothing special.
    groups: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse what could not be written into XML, or names no group.

        Raises:
            ValueError: it does.
        """
        check_text(self.text)
        for name in self._names():
            if name not in self.groups:
                known = ", ".join(f"{{{group}}}" for group in sorted(self.groups))
                raise ValueError(f"{{{name}}} in {self.text!r}, want a named group of the regex: {known}")

    def fill(self, groups: Mapping[str, str]) -> str:
        """Return the text with the values of the groups."""
        if not self.groups:
            return self.text
        return "".join(
            literal + ("" if name is None else groups.get(name, ""))
            for literal, name, _, _ in Formatter().parse(self.text)
        )

    def _names(self) -> list[str]:
        if not self.groups:
            return []
        try:
            parts = list(Formatter().parse(self.text))
        except ValueError as error:
            raise ValueError(f"{self.text!r} ({error}), want braces in pairs; {{{{ is one brace") from error
        for _, name, form, conversion in parts:
            if form or conversion:
                raise ValueError(f"{self.text!r}, want nothing but a group's name in braces, not {name!r}")
        return [name for _, name, _, _ in parts if name is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a pattern found in one value."""

    #: None where the rule leaves the value as it is.
    new: str | None
    groups: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A value, how it begins, or a regular expression; and what takes the place of what was found."""

    way: Way
    text: str
    replace: Template | None = None
    #: The regex, None otherwise.
    regex: re.Pattern[str] | None = None
    ignores_case: bool = False

    @property
    def groups(self) -> frozenset[str]:
        """Names of the groups that a new value may hold."""
        return frozenset(self.regex.groupindex if self.regex else ())

    def match(self, value: str) -> Match | None:
        """Return what the pattern finds in a value, None if it means another.

        Raises:
            ValueError: the value is too long to try.
        """
        if len(value) > VALUE_SIZE_MAX:
            raise ValueError(f"{len(value)} characters, want at most {VALUE_SIZE_MAX}")
        if self.regex is not None:
            return self._search(value)
        start, text = (value.lower(), self.text.lower()) if self.ignores_case else (value, self.text)
        if not start.startswith(text) or (self.way == "exact" and start != text):
            return None
        return Match(
            new=None if self.replace is None else self.replace.fill({}) + value[len(text) :], groups={}
        )

    def _search(self, value: str) -> Match | None:
        assert self.regex is not None
        found = self.regex.search(value)
        if found is None:
            return None
        groups = {name: text or "" for name, text in found.groupdict().items()}
        if self.replace is None:
            return Match(new=None, groups=groups)
        new = value[: found.start()] + self.replace.fill(groups) + value[found.end() :]
        return Match(new=new, groups=groups)


def parse_pattern(value: object, *, is_replaceable: bool, ignores_case: bool = False) -> Pattern:
    """Return the pattern of a rule's key: a text that is meant exactly, or a table.

    Raises:
        ValueError: it is neither, or the value may not be changed.
    """
    if isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value)
        check_text(text)
        return Pattern(way="exact", text=text, ignores_case=ignores_case)
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - for whoever adds where
            f"{shorten(value)}, want a text, or a table of one of {', '.join(_WAYS)}"
        )
    ways = [way for way in _WAYS if way in value]
    if len(ways) != 1 or value.keys() - {*_WAYS, "replace"}:
        keys = ", ".join(map(str, value)) or "an empty table"
        raise ValueError(f"{shorten(keys)}, want one of {', '.join(_WAYS)}, and replace or not")
    if "replace" in value and not is_replaceable:
        raise ValueError("replace, want it where the value may change under the guest: this one only selects")
    text = value[ways[0]]
    if not isinstance(text, str) or not text:
        raise ValueError(f"{ways[0]} {shorten(text)}, want a text that is not empty")
    check_text(text)
    regex = _compile(text) if ways[0] == "regex" else None
    replace = value.get("replace")
    if not isinstance(replace, str | None):
        raise ValueError(f"replace {shorten(replace)}, want a text")  # noqa: TRY004 - as above
    return Pattern(
        way=ways[0],
        text=text,
        regex=regex,
        replace=None
        if replace is None
        else Template(text=replace, groups=frozenset(regex.groupindex if regex else ())),
        ignores_case=ignores_case,
    )


def check_text(text: str) -> None:
    """Refuse a text that XML cannot hold, or that no value of domain XML looks like.

    Raises:
        ValueError: control characters, or far too long.
    """
    if len(text) > PATTERN_SIZE_MAX:
        raise ValueError(f"{len(text)} characters, want at most {PATTERN_SIZE_MAX}")
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cs"} or char in _NONCHARACTERS:
            raise ValueError(f"character {char!a} in {shorten(text)}, want text without such")


def shorten(value: object) -> str:
    """Return a value as an error may show it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


#: Characters of a wrong value that an error shows.
_SHOWN: Final = 80


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"regex {shorten(text)} ({error}), want a Python regular expression") from error
