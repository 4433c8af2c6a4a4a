"""Tell whether a guest could run on with another domain XML, by libvirt's own rules, value by value.

Both documents should be libvirt's own: what its parser adds (addresses, controllers) is
not known here, so that XML which leaves it out may be refused although libvirt would take it.

Source: libvirt src/conf/domain_conf.c, virDomainDefCheckABIStabilityFlags(). The tables are
in engine.domxml.abi.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from lxml import etree

from engine.domxml.abi.domain import DOMAIN
from engine.domxml.abi.table import Element, Free, Group, Table, Version, Visible
from engine.domxml.abi.values import find_at, own_text
from engine.domxml.changes import list_changes
from engine.domxml.difference import Difference, Report

#: The libvirt whose rules apply unless told.
LIBVIRT: Final[Version] = (11, 3, 0)
_UNKNOWN: Final = "not known to be the host's alone"
_TWICE: Final = "it stands there more than once, and only one of them counts"
_IMPLIED: Final = "libvirt adds it by itself"
_MISPLACED: Final = "libvirt would add it by itself, but not where the image has it"
_BELOW: Final = "/**"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that differs between two domain XMLs."""

    differences: tuple[Difference, ...]

    @property
    def stable(self) -> bool:
        """True where a saved guest may go on with the new XML."""
        return not any(difference.guest_visible for difference in self.differences)


def compare(old: Element, new: Element, *, libvirt: Version = LIBVIRT, is_image: bool = False) -> Comparison:
    """Return every difference of two <domain> elements, and with it whether a saved guest may change over.

    Args:
        old: what the guest was saved with, or would be.
        new: what it shall be restored with.
        libvirt: version of the libvirt that restores it.
        is_image: old is from an image: libvirt takes it as it stands there. Else libvirt makes it
            ready for an image first, as it does with the XML of a guest that is to be saved.
    """
    return Comparison(differences=tuple(_Walk(libvirt, is_image=is_image).compare(DOMAIN, old, new)))


def list_differences(
    old: Element, new: Element, *, libvirt: Version = LIBVIRT, is_image: bool = False
) -> tuple[Difference, ...]:
    """Return the differences alone, as `engine.domxml.rewrite` wants them; arguments as for `compare`."""
    return compare(old, new, libvirt=libvirt, is_image=is_image).differences


class _Walk:
    """Goes through two documents side by side, table by table."""

    def __init__(self, libvirt: Version, *, is_image: bool) -> None:
        self._libvirt = libvirt
        self._is_image = is_image
        self._tables: dict[int, Table] = {}
        self._report = Report()

    def compare(self, table: Table, old: Element, new: Element) -> Iterator[Difference]:
        """Yield the differences of two elements that the table is about."""
        if (at_version := self._tables.get(id(table))) is None:
            at_version = self._tables[id(table)] = table.at(self._libvirt)
        yield from _Pair(at_version, self._report, old, new).differences()
        for group in at_version.groups:
            yield from self._group(group, list(old.iterfind(group.path)), list(new.iterfind(group.path)))

    def _group(self, group: Group, old: list[Element], new: list[Element]) -> Iterator[Difference]:
        """Yield the differences of all elements of a group."""
        before, after = group.implied(old), group.implied(new)
        is_misplaced = self._is_image and bool(before) and not group.is_implied_last
        for kind in sorted(before.keys() ^ after.keys()):
            for implied, all_ in ((before.get(kind), old), (after.get(kind), new)):
                if implied is not None:
                    all_.remove(implied)
            yield self._report.element(
                before.get(kind),
                after.get(kind),
                _MISPLACED if is_misplaced else _IMPLIED,
                is_visible=is_misplaced,
            )
        if len(old) == len(new):
            for one, other in zip(group.order(old), group.order(new), strict=True):
                if not _is_same(one, other):
                    yield from self.compare(group.table, one, other)
            return
        reason = f"of this the guest has {len(old)} and would have {len(new)}: {group.noun}"
        for mine, its in _match(group, old, new):
            if mine is None or its is None:
                yield self._report.element(mine, its, reason, is_visible=True)
            elif not _is_same(mine, its):
                yield from self.compare(group.table, mine, its)


def _is_same(old: Element, new: Element) -> bool:
    """Tell whether two elements are the same to the byte, as most are."""
    return etree.tostring(old, with_tail=False) == etree.tostring(new, with_tail=False)


def _match(
    group: Group, old: list[Element], new: list[Element]
) -> Iterator[tuple[Element | None, Element | None]]:
    """Pair the elements of a group whose counts differ, by key; at least one stays alone."""
    free: defaultdict[Hashable, deque[Element]] = defaultdict(deque)
    for index, element in enumerate(new):
        free[group.key(element) if group.key else index].append(element)
    for index, element in enumerate(old):
        same = free[group.key(element) if group.key else index]
        yield element, same.popleft() if same else None
    for rest in free.values():
        for element in rest:
            yield None, element


class _Pair:
    """Compares two elements by one table; its groups are not its business."""

    def __init__(self, table: Table, report: Report, old: Element, new: Element) -> None:
        self._table = table
        self._report = report
        self._old = old
        self._new = new
        #: Values that both have; by the rule's identity.
        self._shared: dict[int, Hashable] = {}

    def differences(self) -> Iterator[Difference]:
        """Yield what the guest sees first, then all else."""
        for rule in self._table.visible:
            values = rule.read(self._old), rule.read(self._new)
            if values[0] == values[1]:
                self._shared[id(rule)] = values[0]
            else:
                yield self._visible(rule, values)
        yield from self._walk(self._old, self._new, "")

    def _visible(self, rule: Visible, values: tuple[Hashable, Hashable]) -> Difference:
        """Return the difference of a value, at the first of its parts that differs."""
        found = [self._at(path, rule.reason) for path in rule.paths]
        for difference in found:
            if difference.old != difference.new:
                return difference
        # It follows from what stands elsewhere.
        return replace(found[0], old=str(values[0]), new=str(values[1]))

    def _at(self, path: str, reason: str) -> Difference:
        """Return what the two documents have at a path of the table."""
        place, at, attribute = path.removesuffix(_BELOW).rpartition("@")
        place = place.rstrip("/") if at else attribute
        old, new = find_at(self._old, place), find_at(self._new, place)
        if at:
            return self._report.attribute(old, new, attribute, reason, is_visible=True)
        is_text = old is not None and new is not None and not path.endswith(_BELOW)
        difference = self._report.text if is_text else self._report.element
        return difference(old, new, reason, is_visible=True)

    def _walk(self, old: Element | None, new: Element | None, path: str) -> Iterator[Difference]:
        """Yield what differs in an element, without what a rule for visible values has covered."""
        names = {str(name): None for element in (old, new) if element is not None for name in element.attrib}
        for name in names:
            values = [None if element is None else element.get(name) for element in (old, new)]
            if values[0] != values[1] and (verdict := self._judge(f"{path}/@{name}".lstrip("/"))):
                reason, is_visible = verdict
                yield self._report.attribute(old, new, name, reason, is_visible=is_visible)
        if _texts_differ(old, new) and (verdict := self._judge(path)):
            reason, is_visible = verdict
            yield self._report.text(old, new, reason, is_visible=is_visible)
        for step, index, mine, its in _pair_children(old, new):
            yield from self._child(f"{path}/{step}".lstrip("/"), index, mine, its)

    def _child(self, path: str, index: int, old: Element | None, new: Element | None) -> Iterator[Difference]:
        """Yield what differs in a child element, which may be missing on one side."""
        if self._table.group_at(path) is not None:
            return
        if index and self._table.counts_once(path):
            if old is None or new is None or list_changes(old, new):
                yield self._report.element(old, new, _TWICE, is_visible=True)
            return
        is_alone = old is None or new is None
        has_inner = self._table.has_inner(path)
        found = [] if is_alone and not has_inner else list(self._walk(old, new, path))
        yield from found
        # A mere container says nothing by itself.
        is_container = has_inner and self._table.find(path) is None
        if is_alone and not found and not is_container and (verdict := self._judge(path)):
            reason, is_visible = verdict
            yield self._report.element(old, new, reason, is_visible=is_visible)

    def _judge(self, path: str) -> tuple[str, bool] | None:
        """Return why something that differs is refused or allowed; None where there is nothing to say."""
        match self._table.find(path):
            case Visible() as rule:
                return self._judge_rest(rule)
            case Free() as rule:
                return rule.reason, False
            case None:
                return _UNKNOWN, True

    def _judge_rest(self, rule: Visible) -> tuple[str, bool] | None:
        """Return what is said of a part of a value that both have; nothing of one number put in two ways."""
        if rule.rest is None or id(rule) not in self._shared or type(self._shared[id(rule)]) is int:
            return None
        return rule.rest, False


def _texts_differ(old: Element | None, new: Element | None) -> bool:
    if old is None or new is None:
        return False
    return own_text(old).strip() != own_text(new).strip()


def _pair_children(
    old: Element | None, new: Element | None
) -> Iterator[tuple[str, int, Element | None, Element | None]]:
    """Yield name, number among its like, and both of each child; elements of one name go by their order."""
    before, after = _by_name(old), _by_name(new)
    for name in before | after:
        mine, its = before.get(name, []), after.get(name, [])
        for index in range(max(len(mine), len(its))):
            yield (
                name,
                index,
                mine[index] if index < len(mine) else None,
                its[index] if index < len(its) else None,
            )


def _by_name(element: Element | None) -> dict[str, list[Element]]:
    groups: dict[str, list[Element]] = {}
    if element is not None:
        for child in element.iterchildren("*"):
            groups.setdefault(str(child.tag), []).append(child)
    return groups
