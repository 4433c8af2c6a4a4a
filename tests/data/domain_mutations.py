"""Change domain XMLs in one place each, in every place there is: no choice, no chance."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

from lxml import etree

_Change = Callable[[etree._Element], object]

#: Other values for one attribute or text at most, of those that stand there in the documents.
_OTHERS_MAX: Final = 3
#: To libvirt's parser, every document is the same there.
_ONE_EFFECT: Final = frozenset({"invent", "repeat"})
_OPPOSITES: Final = {"on": "off", "off": "on", "yes": "no", "no": "yes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One change of a document in one place."""

    #: Attributes: "set", "unset", "give", "invent". Elements: "text", "remove", "repeat", "swap", "add".
    kind: str
    #: The place by names alone, such as "devices/disk/@device".
    path: str
    #: What stands there now; empty for changes without a value.
    value: str
    xml: str

    @property
    def what(self) -> str:
        """What was done, for people."""
        return f"{self.kind} {self.path} {self.value}".strip()


class Mutator:
    """Knows what stands at each path of a number of documents."""

    def __init__(self, documents: Sequence[etree._Element]) -> None:
        self._values: defaultdict[str, dict[str, None]] = defaultdict(dict)
        #: Path of an element -> name -> the first of its children of that name.
        self._children: defaultdict[str, dict[str, etree._Element]] = defaultdict(dict)
        self._attributes: defaultdict[str, dict[str, str]] = defaultdict(dict)
        #: Of kinds that have one effect in all documents: what was done already.
        self._done: set[tuple[str, str]] = set()
        for root in documents:
            for element in root.iter("*"):
                path = _path(element)
                for name, value in element.attrib.items():
                    self._values[f"{path}/@{name}"][str(value)] = None
                    self._attributes[path].setdefault(str(name), str(value))
                if text := _text(element):
                    self._values[path][text] = None
                for child in element.iterchildren("*"):
                    self._children[path].setdefault(str(child.tag), child)

    def mutate(self, root: etree._Element) -> list[Mutation]:
        """Return every mutation of a document, in document order; of those with one effect only the first."""
        found: dict[tuple[str, str, str], Mutation] = {}
        for index, element in enumerate(list(root.iter("*"))):
            for kind, path, value, change in self._changes(element):
                if (kind, path, value) not in found and self._is_new(kind, path):
                    xml = _changed(root, index, change)
                    found[kind, path, value] = Mutation(kind=kind, path=path, value=value, xml=xml)
        return list(found.values())

    def _is_new(self, kind: str, path: str) -> bool:
        if kind not in _ONE_EFFECT:
            return True
        known = (kind, path) in self._done
        self._done.add((kind, path))
        return not known

    def _changes(self, element: etree._Element) -> Iterator[tuple[str, str, str, _Change]]:
        """Yield kind, path, value and the change itself of all that can be done to an element."""
        path = _path(element)
        for name, value in list(element.attrib.items()):
            at = f"{path}/@{name}"
            for other in self._others(at, str(value)):
                yield "set", at, other, _set(str(name), other)
            yield "unset", at, "", _unset(str(name))
        for name, value in self._attributes[path].items():
            if element.get(name) is None:
                yield "give", f"{path}/@{name}", value, _set(name, value)
        yield "invent", f"{path}/@invented", "1", _set("invented", "1")
        for other in self._others(path, _text(element)) if _text(element) else ():
            yield "text", path, other, _set_text(other)
        for name, child in self._children[path].items():
            if element.find(name) is None:
                yield "add", f"{path}/{name}", "", _add(child)
        if element.getparent() is not None:
            yield "remove", path, "", _remove
            yield "repeat", path, "", _repeat
        if _next(element) is not None:
            yield "swap", path, "", _swap

    def _others(self, path: str, value: str) -> list[str]:
        """Return values to put in the place of one: like it, and such as stand there elsewhere."""
        others = [other for other in self._values[path] if other != value]
        return list(dict.fromkeys([*_like(value), *others[:_OTHERS_MAX]]))


def _path(element: etree._Element) -> str:
    """Return the names that lead from the root to an element, without the root's."""
    names = [str(element.tag), *(str(above.tag) for above in element.iterancestors())]
    return "/".join(reversed(names[:-1]))


def _text(element: etree._Element) -> str:
    return "" if len(element) else (element.text or "").strip()


def _like(value: str) -> Iterator[str]:
    """Yield values of the same kind, and the same value written in another way."""
    if value in _OPPOSITES:
        yield _OPPOSITES[value]
    elif re.fullmatch(r"-?[0-9]+", value):
        yield str(int(value) + 1)
        yield str(int(value) * 2 + 2)
    elif re.fullmatch(r"0x[0-9a-fA-F]+", value):
        yield hex(int(value, 16) + 1)
        yield f"0x{int(value, 16):08x}"
    elif value and value[-1] in "0123456789":
        yield value[:-1] + str((int(value[-1]) + 1) % 10)
        yield f"{value}x"
    else:
        yield f"{value}x"
        yield value.upper()


def _changed(root: etree._Element, index: int, change: _Change) -> str:
    copy = deepcopy(root)
    change(list(copy.iter("*"))[index])
    return etree.tostring(copy, encoding="unicode")


def _set(name: str, value: str) -> _Change:
    return lambda element: element.set(name, value)


def _unset(name: str) -> _Change:
    return lambda element: element.attrib.pop(name)


def _set_text(text: str) -> _Change:
    return lambda element: setattr(element, "text", text)


def _add(child: etree._Element) -> _Change:
    return lambda element: element.append(deepcopy(child))


def _remove(element: etree._Element) -> None:
    _parent(element).remove(element)


def _repeat(element: etree._Element) -> None:
    element.addnext(deepcopy(element))


def _swap(element: etree._Element) -> None:
    """Put an element behind the next of its name."""
    other = _next(element)
    assert other is not None
    other.addnext(element)


def _next(element: etree._Element) -> etree._Element | None:
    return next(element.itersiblings(str(element.tag)), None)


def _parent(element: etree._Element) -> etree._Element:
    parent = element.getparent()
    assert parent is not None
    return parent
