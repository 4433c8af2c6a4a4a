"""Make and compare the domain XML of simulated machines.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from lxml import etree

from engine.domxml.document import check_same_domain, identity_of, parse_domain_xml
from engine.errors import AbiError
from engine.hypervisor.sim.domain import SimDomain
from engine.units import KiB, parse_size

#: What the guest can see: XPath of the value.
_VISIBLE: Final = ("string(memory)", "string(vcpu)", "string(os/type/@machine)", "string(os/type/@arch)")


def make_xml(name: str, uuid: str, memory_bytes: int, machine: str = "sim-1") -> str:
    """Return the XML of a machine that no real hypervisor takes for one of its own."""
    return (
        f"<domain type='sim'>\n  <name>{escape(name)}</name>\n  <uuid>{uuid}</uuid>\n"
        f"  <memory unit='KiB'>{memory_bytes // KiB}</memory>\n  <vcpu>1</vcpu>\n"
        f"  <os>\n    <type arch='x86_64' machine='{machine}'>hvm</type>\n  </os>\n  <devices/>\n</domain>\n"
    )


def read_machine(xml: str, where: str) -> SimDomain:
    """Return the persistent domain, shut off, that an XML describes.

    Raises:
        DomainXmlError: it describes none.
    """
    root = parse_domain_xml(xml, where=where)
    identity = identity_of(root, where=where)
    return SimDomain(
        name=identity.name,
        uuid=str(identity.uuid or ""),
        definition=xml,
        memory_bytes=_memory_of(root),
    )


def check_abi(saved_xml: str, new_xml: str, where: str) -> None:
    """Refuse an XML that would change the machine under a guest.

    Raises:
        DomainXmlError: it is no domain XML.
        AbiError: it is of another domain, or of another machine.
    """
    check_same_domain(saved_xml, new_xml, where=where)
    saved, new = (parse_domain_xml(text, where=where) for text in (saved_xml, new_xml))
    if _memory_of(saved) != _memory_of(new):
        found = f"Target domain max memory {_memory_of(new) // KiB} does not match source"
        raise AbiError(where, found, str(_memory_of(saved) // KiB))
    for path in _VISIBLE[1:]:
        before, after = saved.xpath(path), new.xpath(path)
        if before != after:
            raise AbiError(where, f"Target {path} {after!r} does not match source", repr(before))


def _memory_of(root: etree._Element) -> int:
    """Return the memory of a <domain> element, bytes."""
    memory = root.find("memory")
    if memory is None:
        return 0
    return parse_size(f"{(memory.text or '0').strip()}{memory.get('unit', 'KiB')}")
