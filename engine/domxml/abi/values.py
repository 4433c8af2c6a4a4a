"""Read single values as libvirt's parser does, so that two ways of writing one value are equal.

Whatever is not surely understood stays the text that it is: then only the same text is equal.

Source: libvirt src/util/virstring.c, virxml.c, virbitmap.c; src/conf/domain_conf.c, virDomainParseMemory().
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import Final
from uuid import UUID

from lxml import etree

from engine.domxml.facts import scaled_bytes
from engine.units import KiB

_Element = etree._Element  # noqa: SLF001 - lxml has no other name for the type
#: Make a value comparable; None is what the document leaves out.
Convert = Callable[[str | None], Hashable]

#: Bits of libvirt's CPU sets at most (VIR_DOMAIN_CPUMASK_LEN).
CPUS_MAX: Final = 16384
# A leading zero means octal in some places of libvirt's parser and nothing in others.
_DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,19})", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"0[xX][0-9a-fA-F]{1,16}", re.ASCII)
_CPU_RANGE: Final = re.compile(r"(\^?)([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


def read_at(path: str, convert: Convert) -> Callable[[_Element], Hashable]:
    """Return a function that reads the attribute or text at a path below an element, converted."""
    *steps, attribute = path.split("/") if "@" in path else (*path.split("/"), "")
    name = attribute.removeprefix("@")

    def read(element: _Element) -> Hashable:
        found = _descend(element, steps)
        if found is None:
            return convert(None)
        return convert(found.get(name) if name else own_text(found))

    return read


def text_at(element: _Element, path: str) -> str | None:
    """Return the attribute or text at a path below an element, None where there is none."""
    *steps, attribute = path.split("/") if "@" in path else (*path.split("/"), "")
    found = _descend(element, steps)
    if found is None:
        return None
    return found.get(attribute.removeprefix("@")) if attribute else own_text(found)


def find_at(element: _Element, path: str) -> _Element | None:
    """Return the first element at a path below another, the element itself for the empty path."""
    return _descend(element, path.split("/") if path else ())


def _descend(element: _Element, steps: Iterable[str]) -> _Element | None:
    # Several times as fast as find().
    found: _Element | None = element
    for step in steps:
        if found is None:
            break
        found = next(found.iterchildren(step), None)
    return found


def own_text(element: _Element) -> str:
    """Return the text that stands in the element itself; comments only interrupt it."""
    if len(element) == 0:
        return element.text or ""
    return "".join(piece or "" for piece in (element.text, *(child.tail for child in element)))


def plain(text: str | None) -> Hashable:
    """Return the text itself."""
    return text


def default(value: str, convert: Convert = plain) -> Convert:
    """Return a conversion for what means a certain value where it is left out."""

    def converted(text: str | None) -> Hashable:
        return convert(value if text is None else text)

    return converted


def number(text: str | None) -> Hashable:
    """Return a whole number, decimal or hexadecimal."""
    if text is None:
        return None
    if _DECIMAL.fullmatch(text):
        return int(text)
    return int(text, 16) if _HEXADECIMAL.fullmatch(text) else text


#: What libvirt keeps as the number 0 where it is left out.
count: Final = default("0", number)


def hexadecimal(text: str | None) -> Hashable:
    """Return the number of hexadecimal digits, with or without 0x before them."""
    if text is not None and re.fullmatch(r"(?:0[xX])?[0-9a-fA-F]{1,16}", text, re.ASCII):
        return int(text, 16)
    return text


def present(text: str | None) -> Hashable:
    """Tell whether there is such an element, whatever is in it."""
    return text is not None


def uuid(text: str | None) -> Hashable:
    """Return a UUID, however it is written."""
    try:
        return None if text is None else UUID(text.strip())
    except ValueError:
        return text


def mac(text: str | None) -> Hashable:
    """Return an address of a network card; letters are of no case."""
    return None if text is None else text.lower()


def cpus(text: str | None) -> Hashable:
    """Return a set of CPUs, such as of "0-3,^2", as a number with a bit for each."""
    if text is None:
        return None
    chosen = 0
    for part in text.replace(" ", "").split(","):
        match = _CPU_RANGE.fullmatch(part)
        if match is None:
            return text
        first = int(match[2])
        last = first if match[3] is None else int(match[3])
        if not first <= last < CPUS_MAX:
            return text
        bits = ((1 << (last - first + 1)) - 1) << first
        chosen = chosen & ~bits if match[1] else chosen | bits
    return chosen


def size(path: str, unit: str = "KiB", *, attribute: str = "") -> Callable[[_Element], Hashable]:
    """Return a function that reads an amount of memory, in KiB, rounded up as libvirt does.

    Args:
        path: the element that holds it.
        unit: where the element does not say one.
        attribute: of that element, where the amount is not its text.
    """

    def read(element: _Element) -> Hashable:
        found = find_at(element, path)
        if found is None:
            return None
        text = found.get(attribute) if attribute else own_text(found)
        return None if text is None else kibibytes(text, found.get("unit", unit))

    return read


def kibibytes(text: str, unit: str) -> int | str:
    """Return an amount in KiB, rounded up; the text with its unit where it is none."""
    amount = scaled_bytes(text, unit)
    return f"{text} {unit}" if amount is None else -(-amount // KiB)
