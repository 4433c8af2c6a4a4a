"""Change domain XMLs in one place each, in every place there is: no choice, no chance."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

from lxml import etree

#: Other values for one attribute or text at most, of those that the other documents have there.
_OTHERS_MAX: Final = 3
_Change = Callable[[etree._Element], object]
_OPPOSITES: Final = {"on": "off", "off": "on", "yes": "no", "no": "yes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One document that differs from another in one place."""

    #: What was done, and where: "set /domain/devices/disk/@device to cdrom".
    what: str
    #: The place without numbers: "devices/disk/@device".
    path: str
    #: "set", "unset", "text", "remove", "repeat", "swap" or "invent".
    kind: str
    xml: str


class Mutator:
    """Knows the values that stand at each path in a number of documents."""

    def __init__(self, documents: Sequence[etree._Element]) -> None:
        self._values: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for root in documents:
            for element in root.iter("*"):
                path = _path(element)
                for name, value in element.attrib.items():
                    self._values[f"{path}/@{name}"][str(value)] = None
                if _text(element):
                    self._values[path][_text(element)] = None

    def mutate(self, root: etree._Element) -> Iterator[Mutation]:
        """Yield every mutation of a document, in document order."""
        for index, element in enumerate(list(root.iter("*"))):
            path = _path(element)
            for name, value in list(element.attrib.items()):
                at = f"{path}/@{name}"
                for other in self._others(at, str(value)):
                    yield _changed(root, index, "set", at, _set(str(name), other), f"to {other}")
                yield _changed(root, index, "unset", at, _unset(str(name)))
            if _text(element):
                for other in self._others(path, _text(element)):
                    yield _changed(root, index, "text", path, _set_text(other), f"to {other}")
            yield _changed(root, index, "invent", f"{path}/@invented", _set("invented", "1"))
            if element is not root:
                yield _changed(root, index, "remove", path, _remove)
                yield _changed(root, index, "repeat", path, _repeat)
                if _next(element) is not None:
                    yield _changed(root, index, "swap", path, _swap)

    def _others(self, path: str, value: str) -> list[str]:
        """Return values to put in the place of one: like it, and such as other documents have there."""
        found = dict.fromkeys(_like(value))
        others = [other for other in self._values[path] if other != value and other not in found]
        found.update(dict.fromkeys(others[:_OTHERS_MAX]))
        return list(found)


def _path(element: etree._Element) -> str:
    """Return the names that lead from the root to an element, without the root's."""
    names = [str(element.tag), *(str(above.tag) for above in element.iterancestors())]
    return "/".join(reversed(names[:-1]))


def _text(element: etree._Element) -> str:
    return "" if len(element) else (element.text or "").strip()


def _like(value: str) -> Iterator[str]:
    """Yield values of the same kind."""
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


def _changed(
    root: etree._Element, index: int, kind: str, path: str, change: _Change, more: str = ""
) -> Mutation:
    copy = deepcopy(root)
    change(list(copy.iter("*"))[index])
    what = f"{kind} {path}[{index}] {more}".strip()
    return Mutation(what=what, path=path, kind=kind, xml=etree.tostring(copy, encoding="unicode"))


def _set(name: str, value: str) -> _Change:
    return lambda element: element.set(name, value)


def _unset(name: str) -> _Change:
    return lambda element: element.attrib.pop(name)


def _set_text(text: str) -> _Change:
    return lambda element: setattr(element, "text", text)


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
