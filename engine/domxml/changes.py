"""List what one domain XML says differently from another, value by value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One value that differs; a missing value is None."""

    xpath: str
    old: str | None
    new: str | None


def list_changes(old: etree._Element, new: etree._Element) -> tuple[Change, ...]:
    """Return every attribute, text and element that differs, in document order of the new XML.

    Elements of one name are matched by their order. Space around text does not count.
    """
    return tuple(_walk(old, new, f"/{new.tag!s}"))


def _walk(old: etree._Element, new: etree._Element, path: str) -> Iterator[Change]:
    for name in sorted({*map(str, old.attrib), *map(str, new.attrib)}):
        if old.get(name) != new.get(name):
            yield Change(xpath=f"{path}/@{name}", old=old.get(name), new=new.get(name))
    texts = _own_text(old), _own_text(new)
    if texts[0] != texts[1]:
        yield Change(xpath=f"{path}/text()", old=texts[0] or None, new=texts[1] or None)
    before, after = _by_name(old), _by_name(new)
    for name in [*after, *(name for name in before if name not in after)]:
        for index in range(max(len(before.get(name, ())), len(after.get(name, ())))):
            yield from _pair(before.get(name, []), after.get(name, []), index, f"{path}/{name}[{index + 1}]")


def _pair(
    before: list[etree._Element], after: list[etree._Element], index: int, path: str
) -> Iterator[Change]:
    if index >= len(after):
        yield Change(xpath=path, old=_shown(before[index]), new=None)
    elif index >= len(before):
        yield Change(xpath=path, old=None, new=_shown(after[index]))
    else:
        yield from _walk(before[index], after[index], path)


def _by_name(element: etree._Element) -> dict[str, list[etree._Element]]:
    """Return the child elements grouped by tag; comments have none."""
    groups: dict[str, list[etree._Element]] = {}
    for child in element:
        if isinstance(child.tag, str):
            groups.setdefault(child.tag, []).append(child)
    return groups


def _own_text(element: etree._Element) -> str:
    """Return the text that stands in the element itself; comments only interrupt it."""
    pieces = (element.text, *(child.tail for child in element))
    return "".join((piece or "").strip() for piece in pieces)


def _shown(element: etree._Element) -> str:
    return etree.tostring(element, encoding="unicode", with_tail=False).strip()
