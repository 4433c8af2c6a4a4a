"""Collect what is to change in domain XML, and by whose wish; refuse two wishes for one place."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final

from lxml import etree

from engine.domxml.edit.layout import Layout
from engine.domxml.edit.place import Place
from engine.domxml.facts import hide_secrets
from engine.errors import DomainXmlError

#: Places of one document that may be changed; some kilobytes each.
WISHES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """One value that was changed; a missing value is None."""

    #: Whose wish it was, such as "[[disk]] number 1".
    rule: str
    #: By the positions before the change.
    xpath: str
    old: str | None
    new: str | None


@dataclass(slots=True, kw_only=True)
class Draft:
    """New values for places, elements to take out; nothing is changed yet."""

    layout: Layout
    #: What the wishes come from, named in errors: a file of rules.
    where: str
    #: None: it is taken out.
    values: dict[Place, str | None] = field(default_factory=dict)
    removed: dict[etree._Element, str] = field(default_factory=dict)
    _rules: dict[Place, str] = field(default_factory=dict)

    def put(self, place: Place, value: str | None, *, rule: str) -> None:
        """Wish a value for a place.

        Raises:
            DomainXmlError: somebody else wished another, or there are too many wishes.
        """
        self._check_number()
        if place in self.values and self.values[place] != value:
            raise self._fight((self._rules[place], self.values[place]), (rule, value), self.xpath_of(place))
        self.values.setdefault(place, value)
        self._rules.setdefault(place, rule)

    def remove(self, element: etree._Element, *, rule: str) -> None:
        """Wish that an element be gone, with all that is in it.

        Raises:
            DomainXmlError: there are too many wishes.
        """
        self._check_number()
        self.removed.setdefault(element, rule)

    def settle(self) -> None:
        """Drop what is wished inside of what goes, and wishes for what is so already.

        Raises:
            DomainXmlError: somebody wished a value where somebody else wished nothing to be.
        """
        self.removed = {
            element: rule for element, rule in self.removed.items() if not self._remover(element.getparent())
        }
        for place, value in list(self.values.items()):
            remover = self._remover(place.element)
            if remover and value is not None and remover != self._rules[place]:
                raise self._fight((remover, None), (self._rules[place], value), self.xpath_of(place))
            if remover or value == place.value:
                del self.values[place]

    def list_changes(self) -> tuple[RuleChange, ...]:
        """Return what will be different, in document order."""
        order = self.layout.order_of
        found = [(order(place.element), self._change(place, value)) for place, value in self.values.items()]
        found += [(order(element), self._removal(element)) for element in self.removed]
        return tuple(change for _, change in sorted(found, key=_first))

    def xpath_of(self, place: Place) -> str:
        """Return the path of a place; what is missing will be the last of its name."""
        path = self.layout.xpath_of(place.element)
        for number, step in enumerate(place.missing):
            siblings = 0 if number else sum(1 for _ in place.element.iterchildren(step))
            path += f"/{step}[{siblings + 1}]"
        return path + ("/text()" if place.attribute is None else f"/@{place.attribute}")

    def _check_number(self) -> None:
        if len(self.values) + len(self.removed) >= WISHES_MAX:
            raise DomainXmlError(self.where, f"{WISHES_MAX} places that change", "fewer than that")

    def _change(self, place: Place, value: str | None) -> RuleChange:
        return RuleChange(rule=self._rules[place], xpath=self.xpath_of(place), old=place.value, new=value)

    def _removal(self, element: etree._Element) -> RuleChange:
        return RuleChange(
            rule=self.removed[element], xpath=self.layout.xpath_of(element), old=_shown(element), new=None
        )

    def _remover(self, element: etree._Element | None) -> str | None:
        """Return who wished that an element, or one around it, be gone."""
        while element is not None:
            if element in self.removed:
                return self.removed[element]
            element = element.getparent()
        return None

    def _fight(
        self, first: tuple[str, str | None], second: tuple[str, str | None], xpath: str
    ) -> DomainXmlError:
        wishes = " and ".join(
            f"{rule} makes it {'nothing' if value is None else repr(value)}"
            for rule, value in (first, second)
        )
        return DomainXmlError(
            self.where, f"{xpath}: {wishes}", "one new value", "narrow one of the two, or take it out"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """Writes wishes into a draft in the name of one rule."""

    draft: Draft
    rule: str

    def put(self, place: Place, value: str | None) -> None:
        """Wish a value for a place; None takes it out."""
        self.draft.put(place, value, rule=self.rule)

    def remove(self, element: etree._Element | None) -> None:
        """Wish that an element be gone; None is gone already."""
        if element is not None:
            self.draft.remove(element, rule=self.rule)


def _first(pair: tuple[int, RuleChange]) -> int:
    return pair[0]


def _shown(element: etree._Element) -> str:
    """Return an element as text, without what nobody may read."""
    copy = deepcopy(element)
    hide_secrets(copy)
    return etree.tostring(copy, encoding="unicode", with_tail=False).strip()
