"""Know where each element of domain XML stands in its text.

A parsed tree cannot be written again as it was: quotes, spaces inside tags, CDATA sections, line ends and
character references are gone. So the tree says what is to be changed, and the layout says where.

Source: https://www.w3.org/TR/xml/, sections 2 and 3.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from lxml import etree

from engine.domxml.document import parse_domain_xml

_NAME: Final = re.compile(r"[^ \t\r\n/>=]+")
_ATTRIBUTE: Final = re.compile(
    r"""[ \t\r\n]+(?P<name>[^ \t\r\n/>=]+)[ \t\r\n]*=[ \t\r\n]*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)')"""
)
_QUOTE_OR_END: Final = re.compile("[\"'>]")
#: What holds no elements, and how it ends.
_OPAQUE: Final = (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"))
CDATA: Final = "<![CDATA["
#: White space of XML; Python knows more.
SPACE: Final = " \t\r\n"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementSpan:
    """Where one element stands: offsets into the text."""

    start: int
    #: Where another attribute may be put; behind the start tag.
    attributes_end: int
    open_end: int
    #: The end tag, and what is behind it; both open_end for <x/>.
    close_start: int
    end: int

    @property
    def is_empty(self) -> bool:
        """<x/>: there is no end tag."""
        return self.end == self.open_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Domain XML as text and as tree.

    A document may have very many elements of which very few are edited: of each only its ends
    are kept, the rest is looked up in the text.
    """

    text: str
    root: etree._Element
    _order: Mapping[etree._Element, int]
    _starts: array[int]
    _ends: array[int]
    #: Parent -> the how-manieth of its name each child is, from 1; of parents that were asked for.
    _numbers: dict[etree._Element, dict[etree._Element, int]] = field(default_factory=dict)

    @property
    def elements(self) -> tuple[etree._Element, ...]:
        """All elements, in document order."""
        return tuple(self._order)

    def order_of(self, element: etree._Element) -> int:
        """Return which of all elements one is, in document order."""
        return self._order[element]

    def xpath_of(self, element: etree._Element) -> str:
        """Return the path of an element, such as /domain/devices[1]/disk[2]."""
        steps = []
        while (parent := element.getparent()) is not None:
            numbers = self._numbers.get(parent)
            if numbers is None:
                numbers = self._numbers[parent] = _number(parent)
            steps.append(f"/{element.tag!s}[{numbers[element]}]")
            element = parent
        return f"/{element.tag!s}" + "".join(reversed(steps))

    def name_of(self, element: etree._Element) -> str:
        """Return the name of an element as its tags have it, prefix and all."""
        found = _NAME.match(self.text, self._starts[self._order[element]] + 1)
        assert found is not None
        return found[0]

    def span_of(self, element: etree._Element) -> ElementSpan:
        """Return where an element stands."""
        text, number = self.text, self._order[element]
        start, end = self._starts[number], self._ends[number]
        open_end = _tag_end(text, start)
        inside_end = open_end - (len("/>") if open_end == end else len(">"))
        return ElementSpan(
            start=start,
            attributes_end=start + len(text[start:inside_end].rstrip(SPACE)),
            open_end=open_end,
            close_start=open_end if open_end == end else text.rindex("</", open_end, end),
            end=end,
        )

    def attribute_of(self, element: etree._Element, name: str) -> AttributeSpan | None:
        """Return where an attribute of an element stands, None if it has none of that name."""
        for attribute in self._attributes_of(element):
            if attribute["name"] == name:
                value_start, value_end = attribute.span("single" if attribute["double"] is None else "double")
                return AttributeSpan(start=attribute.start(), value_start=value_start, value_end=value_end)
        return None

    def _attributes_of(self, element: etree._Element) -> Iterator[re.Match[str]]:
        found: re.Match[str] | None = _NAME.match(self.text, self._starts[self._order[element]] + 1)
        assert found is not None
        while found := _ATTRIBUTE.match(self.text, found.end()):
            yield found

    def texts_of(self, element: etree._Element) -> Iterator[tuple[int, int]]:
        """Yield the pieces of an element's own text: runs between tags and comments, whole CDATA sections."""
        span = self.span_of(element)
        position = span.open_end
        for child in element.iterchildren("*"):
            number = self._order[child]
            yield from _pieces(self.text, position, self._starts[number])
            position = self._ends[number]
        yield from _pieces(self.text, position, span.close_start)


def read_layout(text: str, *, where: str) -> Layout:
    """Return domain XML with the place of everything in it.

    Raises:
        DomainXmlError: no domain XML that may be read.
    """
    root = parse_domain_xml(text, where=where)
    order = {element: number for number, element in enumerate(root.iter("*"))}
    starts, ends = _scan(text)
    # Two readers of one text: were they of two minds, an edit would land elsewhere.
    assert len(starts) == len(order), f"{len(starts)} start tags, {len(order)} elements"
    for element, start in zip(order, starts, strict=True):
        name = _NAME.match(text, start + 1)
        assert name is not None, start
        assert name[0].rpartition(":")[2] == etree.QName(element).localname, name[0]
    return Layout(text=text, root=root, _order=order, _starts=starts, _ends=ends)


def _scan(text: str) -> tuple[array[int], array[int]]:
    """Return where the elements of well-formed XML without a DTD begin and end, in document order."""
    starts, ends, is_open = array("q"), array("q"), array("q")
    position = text.find("<")
    while position != -1:
        if (end := _opaque_end(text, position)) is not None:
            pass
        elif text.startswith("</", position):
            end = text.index(">", position) + 1
            ends[is_open.pop()] = end
        else:
            end = _tag_end(text, position)
            if text[end - 2] != "/":
                is_open.append(len(starts))
            starts.append(position)
            ends.append(end)
        position = text.find("<", end)
    assert not is_open, is_open
    return starts, ends


def _opaque_end(text: str, start: int) -> int | None:
    """Return where a comment, CDATA section or processing instruction ends, None for anything else."""
    for begin, end in _OPAQUE:
        if text.startswith(begin, start):
            return text.index(end, start + len(begin)) + len(end)
    return None


def _tag_end(text: str, position: int) -> int:
    """Return where a start tag ends; a value may hold a ">"."""
    while True:
        found = _QUOTE_OR_END.search(text, position)
        assert found is not None, position
        if found[0] == ">":
            return found.end()
        position = text.index(found[0], found.end()) + 1


def _pieces(text: str, position: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield runs of text and CDATA sections of a stretch without elements."""
    while position < end:
        stop = text.find("<", position, end)
        if stop == -1:
            stop = end
        if stop > position:
            yield position, stop
        position = stop
        if position < end:
            opaque_end = _opaque_end(text, position)
            assert opaque_end is not None, position
            if text.startswith(CDATA, position):
                yield position, opaque_end
            position = opaque_end


def _number(parent: etree._Element) -> dict[etree._Element, int]:
    counts: dict[str, int] = {}
    numbers = {}
    for child in parent.iterchildren("*"):
        tag = str(child.tag)
        counts[tag] = numbers[child] = counts.get(tag, 0) + 1
    return numbers
