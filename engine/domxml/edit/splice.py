"""Put new values into the text of domain XML at their places; everything else stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lxml import etree

from engine.domxml.edit.draft import Draft
from engine.domxml.edit.layout import CDATA, SPACE, ElementSpan, Layout
from engine.domxml.edit.place import Place

_QUOTES: Final = frozenset("\"'")
#: Space from the end of one line to the first word of another.
_INDENT: Final = re.compile(r"\r?\n[ \t]*\Z")
#: Written as references: a reader would make spaces or line feeds of them.
_REFERENCES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
_STEP: Final = "  "


@dataclass(frozen=True, slots=True, order=True)
class _Splice:
    """Characters of the text that make way for others."""

    start: int
    end: int
    new: str


def splice(draft: Draft) -> str:
    """Return the text with the values of a settled draft."""
    layout = draft.layout
    splices = [_removal(layout, element) for element in draft.removed]
    by_element: dict[etree._Element, dict[Place, str | None]] = {}
    for place, value in draft.values.items():
        by_element.setdefault(place.element, {})[place] = value
    for element, values in by_element.items():
        splices += _edits(layout, element, values)
    pieces, position = [], 0
    for one in sorted(splices):
        assert one.start >= position, f"two edits of character {one.start}"
        pieces += [layout.text[position : one.start], one.new]
        position = one.end
    return "".join([*pieces, layout.text[position:]])


def _edits(layout: Layout, element: etree._Element, values: Mapping[Place, str | None]) -> Iterator[_Splice]:
    """Yield the edits of one element's own start tag and content."""
    span = layout.span_of(element)
    children, attributes, text = dict[str, _Child](), dict[str, str | None](), None
    for place, value in values.items():
        if place.missing and value is not None:
            _grow(children, place, value)
        elif place.attribute is None:
            text = value or ""
        elif not place.missing:
            attributes[place.attribute] = value
    yield from _new_attributes(layout, element, attributes)
    if span.is_empty and (children or text):
        yield _opened(layout, element, text or "", children)
        return
    if text is not None:
        yield from _new_text(layout, element, text)
    if children:
        yield _new_children(layout, element, children)


@dataclass(slots=True)
class _Child:
    """An element to be made."""

    attributes: dict[str, str]
    children: dict[str, _Child]
    text: str = ""


def _new_attributes(
    layout: Layout, element: etree._Element, attributes: Mapping[str, str | None]
) -> Iterator[_Splice]:
    """Put values between the quotes that are there; new attributes come last."""
    added = ""
    for name, value in attributes.items():
        known = layout.attribute_of(element, name)
        if known is not None and value is None:
            yield _Splice(known.start, known.end, "")
        elif known is not None and value is not None:
            yield _Splice(known.value_start, known.value_end, _escape(value, layout.text[known.value_end]))
        elif value is not None:
            added += f" {name}={_quoted(value, _quote_of(layout, element))}"
    if added:
        end = layout.span_of(element).attributes_end
        yield _Splice(end, end, added)


def _grow(children: dict[str, _Child], place: Place, value: str) -> None:
    for step in place.missing:
        child = children.setdefault(step, _Child({}, {}))
        children = child.children
    if place.attribute is None:
        child.text = value
    else:
        child.attributes[place.attribute] = value


def _format(children: Mapping[str, _Child], quote: str, indent: str) -> str:
    """Return elements as text, each behind its indent."""
    text = ""
    for name, child in children.items():
        attributes = "".join(f" {key}={_quoted(value, quote)}" for key, value in child.attributes.items())
        inside = _escape(child.text, "")
        if child.children:
            inside += _format(child.children, quote, indent and indent + _STEP) + indent
        text += indent + (f"<{name}{attributes}>{inside}</{name}>" if inside else f"<{name}{attributes}/>")
    return text


def _opened(layout: Layout, element: etree._Element, text: str, children: Mapping[str, _Child]) -> _Splice:
    """Make <x/> an element with content."""
    span = layout.span_of(element)
    name = layout.name_of(element)
    indent = _indent_before(layout.text, span)
    inside = _escape(text, "")
    if children:
        inside += _format(children, _quote_of(layout, element), indent and indent + _STEP) + indent
    return _Splice(span.open_end - len("/>"), span.open_end, f">{inside}</{name}>")


def _new_children(layout: Layout, element: etree._Element, children: Mapping[str, _Child]) -> _Splice:
    """Put elements behind the last child, indented as it is."""
    span = layout.span_of(element)
    quote = _quote_of(layout, element)
    last = next(element.iterchildren("*", reversed=True), None)
    if last is not None:
        indent = _indent_before(layout.text, layout.span_of(last))
        end = layout.span_of(last).end
        return _Splice(end, end, _format(children, quote, indent))
    indent = _indent_before(layout.text, span)
    content = layout.text[span.open_end : span.close_start]
    end = span.open_end + len(content.rstrip(SPACE))
    closing = "" if end < span.close_start else indent
    return _Splice(end, end, _format(children, quote, indent and indent + _STEP) + closing)


def _new_text(layout: Layout, element: etree._Element, value: str) -> Iterator[_Splice]:
    """Put the value where the first piece of text stands; comments between pieces stay."""
    text, new = layout.text, _escape(value, "")
    for start, end in layout.texts_of(element):
        piece = text[start:end]
        if not piece.strip(SPACE):
            continue
        before, behind = (
            (0, 0)
            if text.startswith(CDATA, start)
            else (len(piece) - len(piece.lstrip(SPACE)), len(piece) - len(piece.rstrip(SPACE)))
        )
        yield _Splice(start + before, end - behind, new)
        new = ""
    if new:
        begin = layout.span_of(element).open_end
        yield _Splice(begin, begin, new)


def _removal(layout: Layout, element: etree._Element) -> _Splice:
    """Take out an element, and its line if it has one of its own."""
    span = layout.span_of(element)
    return _Splice(span.start - len(_indent_before(layout.text, span)), span.end, "")


def _indent_before(text: str, span: ElementSpan) -> str:
    """Return line end and indent before an element; empty where it does not begin its line."""
    start = span.start
    while start and text[start - 1] in " \t":
        start -= 1
    found = _INDENT.search(text, max(0, start - 2), span.start)
    return found[0] if found else ""


def _quote_of(layout: Layout, element: etree._Element) -> str:
    """Return the quote that the element uses, or the document, or libvirt."""
    for known in (element, layout.root):
        last = layout.text[layout.span_of(known).attributes_end - 1]
        if known.attrib and last in _QUOTES:
            return last
    return "'"


def _quoted(value: str, quote: str) -> str:
    return f"{quote}{_escape(value, quote)}{quote}"


def _escape(value: str, quote: str) -> str:
    """Return text as it stands in XML between two such quotes, or between tags."""
    return "".join(f"&#{ord(char)};" if char == quote else _REFERENCES.get(char, char) for char in value)
