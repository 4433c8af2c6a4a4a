"""Rewrite domain XML by rules: all of them or none, and nothing but what they say.

Rules look at the XML as it was before any of them, so their order means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol

from lxml import etree

from engine.domxml.difference import Difference
from engine.domxml.document import parse_domain_xml
from engine.domxml.edit.draft import Draft, Pen, RuleChange
from engine.domxml.edit.layout import read_layout
from engine.domxml.edit.splice import splice
from engine.domxml.kinds.kind import GuestVisibleError
from engine.domxml.pattern import VALUE_SIZE_MAX
from engine.domxml.rules import Rule, RuleSet
from engine.errors import AbiError, DomainXmlError

#: The first of its name needs no number.
_FIRST: Final = re.compile(r"\[1\](?=/|\Z)")


class Check(Protocol):
    """Lists what differs between two <domain> elements."""

    def __call__(self, old: etree._Element, new: etree._Element, /) -> Iterable[Difference]:
        """Return the differences, allowed ones and others."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """New domain XML, and what is different in it."""

    xml: str
    changes: tuple[RuleChange, ...]


def rewrite(xml: str, rules: RuleSet, *, where: str, check: Check | None = None) -> Rewrite:
    """Return domain XML as the rules want it; what they do not name is the same to the character.

    Args:
        xml: domain XML.
        rules: what is to be changed.
        where: file or option that the XML came from, named in errors.
        check: compares old and new; what it calls visible to the guest is refused.

    Raises:
        DomainXmlError: no domain XML; a rule that is not optional matches nothing; two rules want
            different values in one place; the new XML would be too large.
        AbiError: the guest would see a change.
    """
    layout = read_layout(xml, where=where)
    draft = Draft(layout=layout, where=rules.where)
    for rule in rules.rules:
        if not _apply(rule, draft, where=f"{rules.where}, {rule.name}") and not rule.is_optional:
            raise DomainXmlError(
                f"{rules.where}, {rule.name}", f"matches nothing in {where}", f"a {rule.kind.name} that fits",
                "optional = true where there may be none",
            )  # fmt: skip
    done = finish(draft, where=f"{where} as {rules.where} rewrites it")
    if check is not None and done.changes:
        new = parse_domain_xml(done.xml, where=where)
        _refuse_visible(check(layout.root, new), done.changes, where=rules.where)
    return done


def finish(draft: Draft, *, where: str) -> Rewrite:
    """Return the text of a draft, read again, and what is different in it.

    Raises:
        DomainXmlError: two wishes for one place, or the new XML is too large.
    """
    draft.settle()
    changes = draft.list_changes()
    if not changes:
        return Rewrite(xml=draft.layout.text, changes=())
    text = splice(draft)
    parse_domain_xml(text, where=where)
    return Rewrite(xml=text, changes=changes)


def rule_of(changes: Sequence[RuleChange], xpath: str) -> str | None:
    """Return the rule that changed what stands at a path, around it or inside of it; None if none did."""
    path = _FIRST.sub("", xpath)
    for change in changes:
        changed = _FIRST.sub("", change.xpath)
        if changed == path or path.startswith(f"{changed}/") or changed.startswith(f"{path}/"):
            return change.rule
    return None


def _apply(rule: Rule, draft: Draft, *, where: str) -> bool:
    """Draft what a rule wants; tell whether it matched anything."""
    pen = Pen(draft=draft, rule=rule.name)
    has_matched = False
    for element in chain.from_iterable(map(draft.layout.root.findall, rule.kind.elements)):
        try:
            groups = _match(rule, element)
            if groups is None:
                continue
            has_matched = True
            for one in (element, *rule.kind.twins(element)):
                _write(rule, pen, one, groups)
        except GuestVisibleError as error:
            raise AbiError(where, f"{draft.layout.xpath_of(element)}: {error}") from error
        except ValueError as error:
            found, _, wanted = str(error).partition(", want ")
            raise DomainXmlError(where, f"{draft.layout.xpath_of(element)}: {found}", wanted) from error
    return has_matched


def _match(rule: Rule, element: etree._Element) -> Mapping[str, str] | None:
    """Return the named groups of an element that fits every pattern, None for another."""
    groups: dict[str, str] = {}
    for key, pattern in rule.patterns.items():
        hits = (pattern.match(found.value) for found in rule.kind.keys[key].find(element))
        hit = next(filter(None, hits), None)
        if hit is None:
            return None
        groups.update(hit.groups)
    return groups


def _write(rule: Rule, pen: Pen, element: etree._Element, groups: Mapping[str, str]) -> None:
    kind = rule.kind
    if rule.is_removal:
        pen.remove(element)
        return
    for key, pattern in rule.patterns.items():
        if pattern.replace is None:
            continue
        for found in kind.keys[key].find(element):
            hit = pattern.match(found.value)
            if hit is not None and hit.new is not None and found.place is not None:
                pen.put(found.place, _checked(hit.new))
    if rule.values:
        values = {key: _checked(template.fill(groups)) for key, template in rule.values.items()}
        kind.write(kind.settings, pen, element, values)
    kind.follow(pen, element)


def _checked(value: str) -> str:
    """Return a new value that is not empty and not too long."""
    if not value.strip() or len(value) > VALUE_SIZE_MAX:
        raise ValueError(f"a new value of {len(value)} characters, want 1 to {VALUE_SIZE_MAX}")
    return value


def _refuse_visible(differences: Iterable[Difference], changes: Sequence[RuleChange], *, where: str) -> None:
    for difference in differences:
        if difference.guest_visible:
            place = difference.xpath or difference.new_xpath or ""
            rule = rule_of(changes, place)
            raise AbiError(
                where if rule is None else f"{where}, {rule}",
                f"{place} would be {difference.new!r}", repr(difference.old),
                "rules may change host-specific parts only",
            )  # fmt: skip
