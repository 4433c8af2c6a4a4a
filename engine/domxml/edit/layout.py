"""Know where each element of domain XML stands in its text.

A parsed tree cannot be written again as it was: quotes, spaces inside tags, CDATA sections, line ends and
character references are gone. So the tree says what is to be changed, and the layout says where.

Source: https://www.w3.org/TR/xml/, sections 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lxml import etree

from engine.domxml.document import parse_domain_xml

_NAME: Final = re.compile(r"[^ \t\r\n/>=]+")
_ATTRIBUTE: Final = re.compile(
    r"""[ \t\r\n]+(?P<name>[^ \t\r\n/>=]+)[ \t\r\n]*=[ \t\r\n]*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)')"""
)
_TAG_END: Final = re.compile(r"[ \t\r\n]*(?P<slash>/?)>")
#: What holds no elements, and how it ends.
_OPAQUE: Final = (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"))
CDATA: Final = "<![CDATA["


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeSpan:
    """Where one attribute stands: offsets into the text."""

    #: The space before its name; its value, without the quotes.
    start: int
    value_start: int
    value_end: int

    @property
    def end(self) -> int:
        """Offset behind the closing quote."""
        return self.value_end + 1


@dataclass(slots=True, kw_only=True)
class ElementSpan:
    """Where one element stands: offsets into the text."""

    start: int
    #: Behind the name in the start tag.
    name_end: int
    attributes: dict[str, AttributeSpan]
    #: Behind the start tag.
    open_end: int
    #: <x/>: there is no end tag.
    is_empty: bool
    #: The end tag, and what is behind it; both open_end where there is none.
    close_start: int = 0
    end: int = 0
    #: The element's own pieces of text: runs between tags and comments, whole CDATA sections.
    texts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def attributes_end(self) -> int:
        """Offset where another attribute may be put."""
        return max((attribute.end for attribute in self.attributes.values()), default=self.name_end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Domain XML as text and as tree."""

    text: str
    root: etree._Element
    spans: Mapping[etree._Element, ElementSpan]
    #: The how-manieth of its name each element is among its siblings, from 1.
    numbers: Mapping[etree._Element, int]

    def xpath_of(self, element: etree._Element) -> str:
        """Return the path of an element, such as /domain/devices[1]/disk[2]."""
        steps = []
        step: etree._Element | None = element
        while step is not None and step is not self.root:
            steps.append(f"/{step.tag!s}[{self.numbers[step]}]")
            step = step.getparent()
        return f"/{self.root.tag!s}" + "".join(reversed(steps))


def read_layout(text: str, *, where: str) -> Layout:
    """Return domain XML with the place of everything in it.

    Raises:
        DomainXmlError: no domain XML that may be read.
    """
    root = parse_domain_xml(text, where=where)
    elements = [element for element in root.iter() if isinstance(element.tag, str)]
    spans = scan(text)
    # Two readers of one text: were they of two minds, an edit would land elsewhere.
    assert len(spans) == len(elements), f"{len(spans)} start tags, {len(elements)} elements"
    for element, span in zip(elements, spans, strict=True):
        name = text[span.start + 1 : span.name_end].rpartition(":")[2]
        assert name == etree.QName(element).localname, name
    return Layout(
        text=text,
        root=root,
        spans=dict(zip(elements, spans, strict=True)),
        numbers=_number(elements),
    )


def scan(text: str) -> list[ElementSpan]:
    """Return where the elements of well-formed XML without a DTD stand, in document order."""
    found: list[ElementSpan] = []
    is_open: list[ElementSpan] = []
    position = text.find("<")
    while position != -1:
        opaque = next((pair for pair in _OPAQUE if text.startswith(pair[0], position)), None)
        if opaque:
            end = text.index(opaque[1], position + len(opaque[0])) + len(opaque[1])
            if opaque[0] == CDATA:
                is_open[-1].texts.append((position, end))
        elif text.startswith("</", position):
            end = text.index(">", position) + 1
            span = is_open.pop()
            span.close_start, span.end = position, end
        else:
            span = _scan_tag(text, position)
            found.append(span)
            end = span.open_end
            if not span.is_empty:
                is_open.append(span)
        position = text.find("<", end)
        if is_open and position > end:
            is_open[-1].texts.append((end, position))
    return found


def _scan_tag(text: str, start: int) -> ElementSpan:
    name = _NAME.match(text, start + 1)
    assert name is not None, start
    attributes: dict[str, AttributeSpan] = {}
    end = name.end()
    while attribute := _ATTRIBUTE.match(text, end):
        group = "double" if attribute["double"] is not None else "single"
        value_start, value_end = attribute.span(group)
        attributes[attribute["name"]] = AttributeSpan(
            start=attribute.start(), value_start=value_start, value_end=value_end
        )
        end = attribute.end()
    tag_end = _TAG_END.match(text, end)
    assert tag_end is not None, end
    return ElementSpan(
        start=start,
        name_end=name.end(),
        attributes=attributes,
        open_end=tag_end.end(),
        is_empty=bool(tag_end["slash"]),
        close_start=tag_end.end(),
        end=tag_end.end(),
    )


def _number(elements: list[etree._Element]) -> dict[etree._Element, int]:
    counts: dict[tuple[etree._Element | None, str], int] = {}
    numbers = {}
    for element in elements:
        key = element.getparent(), str(element.tag)
        counts[key] = numbers[element] = counts.get(key, 0) + 1
    return numbers
