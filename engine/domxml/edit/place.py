"""Name one value of domain XML by its path, whether it is there yet or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An attribute or the text of an element."""

    #: The last element on the way that is there.
    element: etree._Element
    #: Names of elements below it that are not there.
    missing: tuple[str, ...] = ()
    #: None: the text.
    attribute: str | None

    @property
    def value(self) -> str | None:
        """What stands there; None for nothing."""
        if self.missing:
            return None
        if self.attribute is not None:
            return self.element.get(self.attribute)
        return own_text(self.element) or None


def own_text(element: etree._Element) -> str:
    """Return the text of an element itself, without the space around it; comments only interrupt it."""
    pieces = (element.text, *(child.tail for child in element))
    return "".join(piece or "" for piece in pieces).strip()


def place_of(element: etree._Element, path: str) -> Place:
    """Return the place of a path such as source/@file or label/text(), by the first element of each name."""
    *steps, last = path.split("/")
    while steps and (child := element.find(steps[0])) is not None:
        element = child
        del steps[0]
    return Place(element=element, missing=tuple(steps), attribute=last[1:] if last.startswith("@") else None)


def places_of(element: etree._Element, path: str) -> Iterator[Place]:
    """Yield the places of a path that hold something, through all elements of each name."""
    steps, _, last = path.rpartition("/")
    for found in element.iterfind(steps) if steps else (element,):
        place = place_of(found, last)
        if place.value is not None:
            yield place
