"""Write down one difference of two domain XMLs: where it is in each, and what stands there, but no password.

Source: XPath 1.0; an element of a namespace is named by name(), so that no prefix has to be declared.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from lxml import etree

from engine.domxml.abi.values import own_text
from engine.domxml.facts import HIDDEN, SECRETS, hide_secrets

_Element = etree._Element  # noqa: SLF001 - lxml has no other name for the type


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One value that differs; a missing one is None."""

    #: In the old document; None where it has no such thing.
    xpath: str | None
    #: In the new document; None where it has no such thing.
    new_xpath: str | None
    #: Passwords are hidden, in both.
    old: str | None
    new: str | None
    #: libvirt refuses it, since the guest would notice; else it is the host's, or libvirt does not look.
    guest_visible: bool
    #: Why, for an operator.
    reason: str


class Places:
    """XPaths of the elements of one document; the children of each are counted once."""

    def __init__(self) -> None:
        self._steps: dict[_Element, str] = {}

    def path_of(self, element: _Element) -> str:
        """Return the XPath that leads to the element and to no other."""
        steps = []
        while (parent := element.getparent()) is not None:
            if element not in self._steps:
                self._count(parent)
            steps.append(self._steps[element])
            element = parent
        return "/".join(["", str(element.tag), *reversed(steps)])

    def _count(self, parent: _Element) -> None:
        numbers: dict[str, int] = {}
        for child in parent.iterchildren("*"):
            local = etree.QName(child).localname
            name = f"{child.prefix}:{local}" if child.prefix else local
            numbers[name] = numbers.get(name, 0) + 1
            step = name if child.tag == name else f'*[name()="{name}"]'
            self._steps[child] = f"{step}[{numbers[name]}]"


class Report:
    """Makes differences of two documents."""

    def __init__(self) -> None:
        self._old = Places()
        self._new = Places()

    def attribute(
        self, old: _Element | None, new: _Element | None, name: str, reason: str, *, is_visible: bool
    ) -> Difference:
        """Return the difference of an attribute; an element that lacks it may be None."""
        step = f"@{name}" if "{" not in name else f'@*[local-name()="{etree.QName(name).localname}"]'
        return Difference(
            xpath=self._attribute_path(self._old, old, name, step),
            new_xpath=self._attribute_path(self._new, new, name, step),
            old=_attribute(old, name),
            new=_attribute(new, name),
            guest_visible=is_visible,
            reason=reason,
        )

    def text(
        self, old: _Element | None, new: _Element | None, reason: str, *, is_visible: bool
    ) -> Difference:
        """Return the difference of the texts of two elements, one of which may be missing."""
        return Difference(
            xpath=None if old is None else f"{self._old.path_of(old)}/text()",
            new_xpath=None if new is None else f"{self._new.path_of(new)}/text()",
            old=_text(old),
            new=_text(new),
            guest_visible=is_visible,
            reason=reason,
        )

    def element(
        self, old: _Element | None, new: _Element | None, reason: str, *, is_visible: bool
    ) -> Difference:
        """Return the difference of two elements with all that is in them, one of which may be missing."""
        return Difference(
            xpath=None if old is None else self._old.path_of(old),
            new_xpath=None if new is None else self._new.path_of(new),
            old=None if old is None else _shown(old),
            new=None if new is None else _shown(new),
            guest_visible=is_visible,
            reason=reason,
        )

    @staticmethod
    def _attribute_path(places: Places, element: _Element | None, name: str, step: str) -> str | None:
        if element is None or element.get(name) is None:
            return None
        return f"{places.path_of(element)}/{step}"


def _attribute(element: _Element | None, name: str) -> str | None:
    value = None if element is None else element.get(name)
    return HIDDEN if value is not None and name in SECRETS else value


def _text(element: _Element | None) -> str | None:
    if element is None:
        return None
    return HIDDEN if element.tag in SECRETS else own_text(element)


def _shown(element: _Element) -> str:
    """Return the element as text, without passwords."""
    copy = deepcopy(element)
    hide_secrets(copy)
    return etree.tostring(copy, encoding="unicode", with_tail=False).strip()
