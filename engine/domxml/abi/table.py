"""Say what a table of fields is: which values the guest sees, which may differ, which devices to match.

Paths are relative to the element that the table is about: `driver` is an element with its own text,
`driver/@queues` an attribute, `driver/**` an element with all that is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

from lxml import etree

from engine.domxml.abi.values import Convert, plain, read_at

Element = etree._Element  # noqa: SLF001 - lxml has no other name for the type
Version = tuple[int, int, int]

_BELOW: Final = "/**"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """A value that has to be the same: libvirt refuses XML in which it is not."""

    #: What the value is made of; the first is where a difference is reported when all of them are the same.
    paths: tuple[str, ...]
    #: Return the value, from the table's element.
    read: Callable[[Element], Hashable]
    reason: str
    #: What to say of parts that differ while the value is the same; None: two ways to put one value.
    rest: str | None = None
    #: The first libvirt that compares it.
    since: Version = (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """What may differ: an attribute, or an element with all that is in it and is not said to be visible."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Elements of one name that are compared one by one, and of which there have to be as many."""

    #: Of each of them, seen from the table that has the group.
    path: str
    table: Table
    #: What an operator calls one of them.
    noun: str
    #: Bring them into the order in which libvirt compares them; document order unless told.
    order: Callable[[Sequence[Element]], Sequence[Element]] = list
    #: What finds the counterpart where the counts differ; None: only its place.
    key: Callable[[Element], Hashable] | None = None
    #: Pick those that libvirt leaves out of a dump and adds again by itself: kind -> element.
    implied: Callable[[Sequence[Element]], dict[str, Element]] = lambda _: {}
    #: Those come behind all others, as libvirt adds them; else they may come elsewhere.
    is_implied_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All fields of one element."""

    visible: tuple[Visible, ...] = ()
    free: tuple[Free, ...] = ()
    groups: tuple[Group, ...] = ()
    _visible_at: dict[str, Visible] = field(init=False, default_factory=dict)
    _visible_below: dict[str, Visible] = field(init=False, default_factory=dict)
    _free_at: dict[str, Free] = field(init=False, default_factory=dict)
    _group_at: dict[str, Group] = field(init=False, default_factory=dict)
    #: Elements that have a rule for something in them.
    _inner: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        for rule in self.visible:
            for path in rule.paths:
                whole = path.removesuffix(_BELOW)
                (self._visible_at if whole == path else self._visible_below)[whole] = rule
                self._inner.update(_outer(whole))
        for free in self.free:
            self._free_at[free.path] = free
            self._inner.update(_outer(free.path))
        for group in self.groups:
            self._group_at[group.path] = group
            self._inner.update(_outer(group.path))

    def at(self, libvirt: Version) -> Table:
        """Return the table as a version of libvirt has it."""
        if all(rule.since <= libvirt for rule in self.visible):
            return self
        kept = tuple(rule for rule in self.visible if rule.since <= libvirt)
        return Table(visible=kept, free=self.free, groups=self.groups)

    def find(self, path: str) -> Visible | Free | None:
        """Return the rule for an attribute or element: its own, or that of the next element around it."""
        if found := self._visible_at.get(path) or self._free_at.get(path) or self._visible_below.get(path):
            return found
        for place in _outer(path):
            if rule := self._free_at.get(place) or self._visible_below.get(place):
                return rule
        return None

    def group_at(self, path: str) -> Group | None:
        """Return the group that the elements of a path belong to."""
        return self._group_at.get(path)

    def counts_once(self, path: str) -> bool:
        """Tell whether only one of several elements of a path can hold a value that the guest sees."""
        match self.find(path):
            case Visible():
                return path in self._visible_at
            case Free():
                return self.has_inner(path)
            case None:
                return True

    def has_inner(self, path: str) -> bool:
        """Tell whether there are rules for something in the element."""
        return path in self._inner


def _outer(path: str) -> list[str]:
    """Return the paths of the elements that something is in, the innermost first."""
    steps = path.split("/")
    return ["/".join(steps[:count]) for count in range(len(steps) - 1, 0, -1)]


def same(path: str, reason: str, convert: Convert = plain, *, since: Version = (0, 0, 0)) -> Visible:
    """Return the rule for one attribute or text that has to be the same once it is converted."""
    return Visible(paths=(path,), read=read_at(path, convert), reason=reason, since=since)


def free(reason: str, *paths: str) -> tuple[Free, ...]:
    """Return a rule for each path, all for one reason."""
    return tuple(Free(path=path, reason=reason) for path in paths)
