"""Put new values into the text of domain XML at their places; everything else stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lxml import etree

from engine.domxml.edit.draft import Draft
from engine.domxml.edit.layout import CDATA, ElementSpan, Layout
from engine.domxml.edit.place import Place

_SPACE: Final = " \t\r\n"
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
    span = layout.spans[element]
    children, attributes, text = dict[str, _Child](), dict[str, str | None](), None
    for place, value in values.items():
        if place.missing and value is not None:
            _grow(children, place, value)
        elif place.attribute is None:
            text = value or ""
        elif not place.missing:
            attributes[place.attribute] = value
    yield from _new_attributes(layout, span, attributes)
    if span.is_empty and (children or text):
        yield _opened(layout, span, text or "", children)
        return
    if text is not None:
        yield from _new_text(layout.text, span, text)
    if children:
        yield _new_children(layout, element, span, children)


@dataclass(slots=True)
class _Child:
    """An element to be made."""

    attributes: dict[str, str]
    children: dict[str, _Child]
    text: str = ""


def _new_attributes(
    layout: Layout, span: ElementSpan, attributes: Mapping[str, str | None]
) -> Iterator[_Splice]:
    """Put values between the quotes that are there; new attributes come last."""
    added = ""
    for name, value in attributes.items():
        known = span.attributes.get(name)
        if known is not None and value is None:
            yield _Splice(known.start, known.end, "")
        elif known is not None and value is not None:
            yield _Splice(known.value_start, known.value_end, _escape(value, layout.text[known.value_end]))
        elif value is not None:
            added += f" {name}={_quoted(value, _quote_of(layout, span))}"
    if added:
        yield _Splice(span.attributes_end, span.attributes_end, added)


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


def _opened(layout: Layout, span: ElementSpan, text: str, children: Mapping[str, _Child]) -> _Splice:
    """Make <x/> an element with content."""
    name = layout.text[span.start + 1 : span.name_end]
    indent = _indent_before(layout.text, span)
    inside = _escape(text, "")
    if children:
        inside += _format(children, _quote_of(layout, span), indent and indent + _STEP) + indent
    return _Splice(span.open_end - len("/>"), span.open_end, f">{inside}</{name}>")


def _new_children(
    layout: Layout, element: etree._Element, span: ElementSpan, children: Mapping[str, _Child]
) -> _Splice:
    """Put elements behind the last child, indented as it is."""
    quote = _quote_of(layout, span)
    last = next(element.iterchildren("*", reversed=True), None)
    if last is not None:
        indent = _indent_before(layout.text, layout.spans[last])
        end = layout.spans[last].end
        return _Splice(end, end, _format(children, quote, indent))
    indent = _indent_before(layout.text, span)
    content = layout.text[span.open_end : span.close_start]
    end = span.open_end + len(content.rstrip(_SPACE))
    closing = "" if end < span.close_start else indent
    return _Splice(end, end, _format(children, quote, indent and indent + _STEP) + closing)


def _new_text(text: str, span: ElementSpan, value: str) -> Iterator[_Splice]:
    """Put the value where the first piece of text stands; comments between pieces stay."""
    new = _escape(value, "")
    for start, end in span.texts:
        piece = text[start:end]
        if not piece.strip(_SPACE):
            continue
        before, behind = (
            (0, 0)
            if text.startswith(CDATA, start)
            else (len(piece) - len(piece.lstrip(_SPACE)), len(piece) - len(piece.rstrip(_SPACE)))
        )
        yield _Splice(start + before, end - behind, new)
        new = ""
    if new:
        yield _Splice(span.open_end, span.open_end, new)


def _removal(layout: Layout, element: etree._Element) -> _Splice:
    """Take out an element, and its line if it has one of its own."""
    span = layout.spans[element]
    return _Splice(span.start - len(_indent_before(layout.text, span)), span.end, "")


def _indent_before(text: str, span: ElementSpan) -> str:
    """Return line end and indent before an element; empty where it does not begin its line."""
    start = span.start
    while start and text[start - 1] in " \t":
        start -= 1
    found = _INDENT.search(text, max(0, start - 2), span.start)
    return found[0] if found else ""


def _quote_of(layout: Layout, span: ElementSpan) -> str:
    """Return the quote that the element uses, or the document, or libvirt."""
    for known in (span, layout.spans[layout.root]):
        for attribute in known.attributes.values():
            return layout.text[attribute.value_end]
    return "'"


def _quoted(value: str, quote: str) -> str:
    return f"{quote}{_escape(value, quote)}{quote}"


def _escape(value: str, quote: str) -> str:
    """Return text as it stands in XML between two such quotes, or between tags."""
    return "".join(f"&#{ord(char)};" if char == quote else _REFERENCES.get(char, char) for char in value)
