"""Describe a kind of rule: its elements, the keys that select them, the keys that may be set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lxml import etree

from engine.domxml.edit.draft import Pen
from engine.domxml.edit.place import Place, place_of, places_of
from engine.domxml.pattern import shorten

#: Returns the text of a rule's value as XML has it; a ValueError says what is and what should be.
Reader = Callable[[Any], str]
Settings = Mapping[str, "Setting"]


class GuestVisibleError(ValueError):
    """What a rule sets would be another device to the guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A value that a key is about."""

    value: str
    #: None where no single place holds it.
    place: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key that selects elements by a value of theirs."""

    #: Such as source/@file, or what finds the values.
    path: str | Callable[[etree._Element], Iterable[Found]]
    #: The value may be replaced under the guest.
    is_replaceable: bool = False
    ignores_case: bool = False
    #: What an element without the value is taken for.
    default: str | None = None
    #: Brings the text of a rule into the form of the values.
    read: Reader | None = None

    def find(self, element: etree._Element) -> list[Found]:
        """Return such values of an element, those of a chain from its top."""
        if isinstance(self.path, str):
            found = [
                Found(value=place.value, place=place)
                for place in places_of(element, self.path)
                if place.value is not None
            ]
        else:
            found = list(self.path(element))
        return found or ([] if self.default is None else [Found(value=self.default)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key of `set`."""

    read: Reader
    #: Where the value goes, such as source/@file; empty where the kind's write knows.
    path: str = ""


def write_settings(settings: Settings, pen: Pen, element: etree._Element, values: Mapping[str, str]) -> None:
    """Put each value that has a place there."""
    for key, value in values.items():
        if settings[key].path:
            pen.put(place_of(element, settings[key].path), value)


def _no_twins(_element: etree._Element) -> tuple[etree._Element, ...]:
    return ()


def _any_values(_values: Mapping[str, str]) -> None:
    """Let all values go together."""


def _nothing_follows(_pen: Pen, _element: etree._Element) -> None:
    """Leave everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of rule."""

    #: As the rule file has it.
    name: str
    #: Paths of its elements below <domain>.
    elements: tuple[str, ...]
    keys: Mapping[str, Key]
    settings: Settings
    #: Writes the values of `set` into one element.
    write: Callable[[Settings, Pen, etree._Element, Mapping[str, str]], None] = write_settings
    #: Raises ValueError for values of `set` that do not go together.
    check: Callable[[Mapping[str, str]], None] = _any_values
    #: Other elements that stand for the same device, and change with it.
    twins: Callable[[etree._Element], Iterable[etree._Element]] = _no_twins
    #: Writes what has to follow when a value was replaced or set.
    follow: Callable[[Pen, etree._Element], None] = _nothing_follows
    #: The element may be taken out.
    is_removable: bool = False


def read_text(value: Any) -> str:
    """Return a text, or a number as one."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{shorten(value)}, want a text")
    return str(value)


def read_number(low: int, high: int) -> Reader:
    """Return the reader of a number between the two."""

    def read(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{shorten(value)}, want a number from {low} to {high}")
        return str(value)

    return read


def read_choice(*words: str) -> Reader:
    """Return the reader of one of the words."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{shorten(value)}, want one of {', '.join(words)}")
        return str(value)

    return read


def read_switch(yes: str, no: str) -> Reader:
    """Return the reader of a switch: true, false, or libvirt's words for the two."""

    def read(value: Any) -> str:
        if isinstance(value, bool):
            return yes if value else no
        if value not in {yes, no}:
            raise ValueError(f"{shorten(value)}, want true or false")
        return str(value)

    return read
