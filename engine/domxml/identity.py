"""Give a copy of a domain an identity of its own: name, UUID, MAC addresses, and what is named after them.

Source: libvirt src/conf/domain_conf.c, virSysinfoSystemParseXML(): the UUID in <sysinfo> must be the
domain's; src/qemu/qemu_domain.c: default paths of channels and firmware variables hold the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid5

from lxml import etree

from engine.domxml.document import identity_of
from engine.domxml.edit.draft import Draft, Pen
from engine.domxml.edit.layout import Layout, read_layout
from engine.domxml.edit.place import Place, place_of
from engine.domxml.pattern import check_text
from engine.domxml.rewrite import Rewrite, finish
from engine.errors import DomainXmlError

#: What QEMU's own addresses begin with.
MAC_PREFIX: Final = "52:54:00"
#: What the changes of this module are listed as.
RULE: Final = "new identity"
#: Bytes; libvirt makes file names of it.
NAME_SIZE_MAX: Final = 200
_MACS: Final = 1 << 24
#: Where libvirt puts sockets of channels that name none: .../5-web-1/NAME, .../target/domain-5-web-1/NAME.
_CHANNEL: Final = "/channel/(?:target/)?(?:domain-)?[0-9]+-"
#: Devices whose back end may be a file or socket that two domains cannot share.
_CHARDEVS: Final = ("serial", "parallel", "console", "channel")
_SHARED_BACKENDS: Final = frozenset({"file", "unix", "pipe"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIdentity:
    """What the copy is called."""

    name: str
    uuid: UUID
    #: One for each network interface, in document order; all different.
    macs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a name that libvirt would refuse.

        Raises:
            ValueError: it would; or a MAC address stands there twice.
        """
        check_name(self.name)
        if len(set(self.macs)) != len(self.macs):
            raise ValueError("one MAC address for two interfaces, want all different")


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a domain.

    Raises:
        ValueError: empty, too long, with a slash, a control character or space around it.
    """
    check_text(name)
    if not name or name != name.strip() or "/" in name or name in {".", ".."}:
        raise ValueError(f"{name!r}, want a name without slashes and without space around it")
    if len(name.encode()) > NAME_SIZE_MAX:
        raise ValueError(f"a name of {len(name.encode())} bytes, want at most {NAME_SIZE_MAX}")


def derive_identity(root: etree._Element, name: str, *, where: str, uuid: UUID | None = None) -> NewIdentity:
    """Return an identity for a copy of a domain; the same question has the same answer.

    Args:
        root: <domain> of the original.
        name: what the copy is to be called.
        where: what the XML came from, named in errors.
        uuid: the copy's; None: derived from the original's and the name.

    Raises:
        DomainXmlError: the original has no name, or the copy cannot have this one.
    """
    old = identity_of(root, where=where)
    taken = {mac.get("address", "").lower() for mac in root.iterfind("devices/interface/mac")}
    count = len(root.findall("devices/interface"))
    try:
        check_name(name)
        new = uuid or uuid5(old.uuid or UUID(int=0), name)
        return NewIdentity(name=name, uuid=new, macs=derive_macs(new, count, taken=taken))
    except ValueError as error:
        found, _, wanted = str(error).partition(", want ")
        raise DomainXmlError(f"new name for {where}", found, wanted) from error


def derive_macs(uuid: UUID, count: int, *, taken: Iterable[str] = ()) -> tuple[str, ...]:
    """Return so many MAC addresses, all different; they depend on the UUID and what is taken alone."""
    used, macs = set(taken), list[str]()
    number = int.from_bytes(sha256(uuid.bytes).digest()[:3])
    while len(macs) < count:
        digits = f"{number % _MACS:06x}"
        mac = f"{MAC_PREFIX}:{digits[:2]}:{digits[2:4]}:{digits[4:]}"
        number += 1
        if mac not in used:
            macs.append(mac)
    return tuple(macs)


def rename_domain(xml: str, identity: NewIdentity, *, where: str) -> Rewrite:
    """Return domain XML with another identity; what does not name the domain is the same to the character.

    Changed are name, UUID, the UUID in <sysinfo>, MAC addresses, and what two domains cannot share
    on one host because it is named after the domain: sockets and files of character devices, logs,
    firmware variables, sockets of displays. Left to libvirt, which makes new ones: default sockets
    of channels, names of taps, ports in networks. Disks stay: rules say where a copy's disks are.

    Raises:
        DomainXmlError: no domain XML, no name in it, or another number of interfaces.
    """
    layout = read_layout(xml, where=where)
    root = layout.root
    old = identity_of(root, where=where)
    interfaces = root.findall("devices/interface")
    if len(interfaces) != len(identity.macs):
        raise DomainXmlError(
            where, f"{len(interfaces)} interfaces", f"{len(identity.macs)}, as there are MAC addresses"
        )
    pen = Pen(draft=Draft(layout=layout, where=where), rule=RULE)
    pen.put(place_of(root, "name/text()"), identity.name)
    pen.put(place_of(root, "uuid/text()"), str(identity.uuid))
    for interface, mac in zip(interfaces, identity.macs, strict=True):
        _renew_interface(pen, interface, mac)
    for entry in root.iterfind("sysinfo/system/entry[@name='uuid']"):
        pen.put(place_of(entry, "text()"), str(identity.uuid))
    if old.uuid is not None:
        _renew_labels(pen, layout, str(old.uuid), str(identity.uuid))
    _renew_paths(pen, layout, old.name, identity.name)
    return finish(pen.draft, where=f"{where} as {identity.name}")


def _renew_interface(pen: Pen, interface: etree._Element, mac: str) -> None:
    """Give an interface another address, and take out what belongs to the original's port."""
    pen.put(place_of(interface, "mac/@address"), mac)
    for path in ("source/@portid", "virtualport/parameters/@interfaceid"):
        place = place_of(interface, path)
        if place.value is not None:
            pen.put(place, None)
    target = interface.find("target")
    # A tap that somebody else made has to be named.
    if target is None or target.get("managed") == "no":
        return
    if set(target.attrib) <= {"dev"} and len(target) == 0:
        pen.remove(target)
    elif target.get("dev") is not None:
        pen.put(place_of(target, "@dev"), None)


def _renew_labels(pen: Pen, layout: Layout, old: str, new: str) -> None:
    """Rename what a security driver named after the domain's UUID."""
    for seclabel in layout.root.iterfind("seclabel"):
        for path in ("label/text()", "imagelabel/text()"):
            place = place_of(seclabel, path)
            if place.value is not None and old in place.value:
                pen.put(place, place.value.replace(old, new))


def _renew_paths(pen: Pen, layout: Layout, old: str, new: str) -> None:
    default = re.compile(f"{_CHANNEL}{re.escape(old)}/")
    # A part of a path that is the name, or begins with it: web-1_VARS.fd, web-1.log; not web-10.
    part = re.compile(rf"(?<![^/]){re.escape(old)}(?![^/._-])(?![._-][0-9]+(?![^/._-]))")
    for place in _paths(layout.root):
        value = place.value or ""
        if place.element.tag == "source" and default.search(value):
            # libvirt makes one for the copy.
            pen.put(place, None)
        elif part.search(value):
            pen.put(place, part.sub(lambda _: new, value))


def _paths(root: etree._Element) -> Iterator[Place]:
    """Yield the places of files and sockets that two domains cannot share; not the disks."""
    for name in _CHARDEVS:
        for device in root.iterfind(f"devices/{name}"):
            if device.get("type") in _SHARED_BACKENDS:
                yield from (place_of(source, "@path") for source in device.iterfind("source"))
            yield from (place_of(log, "@file") for log in device.iterfind("log"))
    for graphics in root.iterfind("devices/graphics"):
        yield place_of(graphics, "@socket")
        yield from (place_of(listen, "@socket") for listen in graphics.iterfind("listen"))
    for nvram in root.iterfind("os/nvram"):
        yield place_of(nvram, "text()")
        yield from (place_of(source, "@file") for source in nvram.iterfind("source"))
    for source in root.iterfind("devices/tpm/backend/source"):
        yield place_of(source, "@path")
