"""Plan the domain XML that a guest is to be restored with: given, made by rules, or of a copy; checked first.

libvirt says yes or no only after it has stopped a guest, and of a copy nothing at all: there
its own check cannot compare what was renamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from engine.domxml.changes import Change
from engine.domxml.compare import LIBVIRT, list_differences
from engine.domxml.difference import Difference
from engine.domxml.document import check_same_domain, parse_domain_xml
from engine.domxml.identity import derive_identity, rename_domain
from engine.domxml.rewrite import rewrite
from engine.domxml.rules import parse_rules
from engine.errors import AbiError, InvalidArgumentError

#: Differences that one sentence names; the rest is counted.
_NAMED_MAX: Final = 5
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_HINT: Final = "dxml may change host-specific parts only; fleetsave dxml check shows all differences"


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlWish:
    """What somebody wants of the domain XML; all None: nothing."""

    #: Domain XML, whole text.
    dxml: str | None = None
    #: In its place, rules that make it: whole text of a TOML document.
    rules: str | None = None
    #: Name of a copy, which gets a UUID and MAC addresses of its own.
    new_name: str | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidArgumentError: both a dxml and rules.
        """
        if self.dxml is not None and self.rules is not None:
            raise InvalidArgumentError("dxml", "given, and rules to make one", "one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class XmlPlan:
    """Domain XML that may be used."""

    #: What the guest gets; the saved text itself where nothing was wanted.
    xml: str
    #: What it says otherwise than the saved one; passwords are hidden.
    changes: tuple[Change, ...] = ()
    #: The whole text that libvirt is given beside the image; None where the image's own does.
    dxml: str | None = None
    #: The guest is another domain than the one that was saved.
    is_copy: bool = False


def plan_xml(saved: str, wish: XmlWish, *, where: str, is_image: bool, libvirt: str = "") -> XmlPlan:
    """Return the domain XML that a wish stands for, proven to leave the guest's machine as it is.

    Args:
        saved: what the guest was, or is to be, saved with; as libvirt writes it.
        wish: what is wanted.
        where: names the saved XML in errors.
        is_image: the saved XML is from an image; else it is a guest's that still runs.
        libvirt: version of the libvirt that will restore it, such as "11.3.0"; its rules apply.

    Raises:
        DomainXmlError: no domain XML, no rules, a rule that matches nothing.
        AbiError: another domain, or the guest would notice a change; the sentence lists them.
    """
    if wish == XmlWish():
        return XmlPlan(xml=saved)
    check = partial(list_differences, libvirt=_version_of(libvirt), is_image=is_image)
    xml = saved
    if wish.rules is not None:
        xml = rewrite(saved, parse_rules(wish.rules, where="rules"), where=where, check=check).xml
    if wish.dxml is not None:
        xml = wish.dxml
        if wish.new_name is None:
            check_same_domain(saved, xml, where="dxml")
    base = saved
    if wish.new_name is not None:
        base, xml = (_rename(text, wish.new_name, where) for text in (saved, xml))
    new = parse_domain_xml(xml, where="dxml")
    # The copy of the saved guest: what else differs must be the host's affair.
    changes = check(parse_domain_xml(base, where=where), new)
    _refuse_visible(changes)
    if base != saved:
        changes = check(parse_domain_xml(saved, where=where), new)
    return XmlPlan(
        xml=xml,
        changes=tuple(_change(difference) for difference in changes),
        dxml=None if wish.new_name is not None else xml,
        is_copy=wish.new_name is not None,
    )


def _rename(xml: str, name: str, where: str) -> str:
    """Return the XML of a copy; the same original and name give the same copy."""
    identity = derive_identity(parse_domain_xml(xml, where=where), name, where=where)
    return rename_domain(xml, identity, where=where).xml


def _refuse_visible(differences: Iterable[Difference]) -> None:
    """Refuse what the guest would notice, all of it in one sentence."""
    visible = [difference for difference in differences if difference.guest_visible]
    if not visible:
        return
    named = [_describe(difference) for difference in visible[:_NAMED_MAX]]
    if len(visible) > _NAMED_MAX:
        named.append(f"and {len(visible) - _NAMED_MAX} more")
    raise AbiError("dxml", "; ".join(named), "", _HINT)


def _describe(difference: Difference) -> str:
    place = difference.xpath or difference.new_xpath
    return f"{place} is {difference.new!r}, want {difference.old!r}"


def _change(difference: Difference) -> Change:
    return Change(
        xpath=difference.xpath or difference.new_xpath or "", old=difference.old, new=difference.new
    )


def _version_of(text: str) -> tuple[int, int, int]:
    """Return the parts of a version; of one that is not known, the newest that the tables know well."""
    found = _VERSION.match(text)
    return LIBVIRT if found is None else (int(found[1]), int(found[2]), int(found[3]))
