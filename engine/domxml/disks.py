"""Read from domain XML which disks a guest has, and where their data is.

Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final

from lxml import etree

#: Devices whose medium may be taken out.
_REMOVABLE: Final = frozenset({"cdrom", "floppy"})
#: With these libvirt takes a medium out that is missing at a restore.
_MAY_BE_MISSING: Final = frozenset({"optional", "requisite"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk of a domain."""

    #: Name in the domain, such as "vda"; no two disks share one.
    target: str
    #: "file", "block", "network", "volume", ...
    type: str
    #: "disk", "lun", "cdrom" or "floppy".
    device: str
    #: Such as "raw" or "qcow2"; empty where the XML leaves it to libvirt.
    format: str
    #: Of a file or block device; None where the data is elsewhere, or the drive is empty.
    path: str | None
    is_readonly: bool
    #: Other guests may write it at the same time.
    is_shareable: bool
    #: libvirt restores the guest without the medium when it is missing.
    may_be_missing: bool
    #: The whole source of data that has no path, such as an export or a volume, to compare; may hold secrets.
    elsewhere: bytes = field(default=b"", repr=False)

    @property
    def is_empty(self) -> bool:
        """True for a drive without a medium."""
        return self.path is None and self.type in {"file", "block"}


def list_disks(root: etree._Element) -> tuple[Disk, ...]:
    """Return the disks of a <domain> element, in document order."""
    return tuple(_disk(element) for element in root.iterfind("devices/disk"))


def _disk(element: etree._Element) -> Disk:
    target, source, driver = element.find("target"), element.find("source"), element.find("driver")
    device = element.get("device", "disk")
    policy = "" if source is None else source.get("startupPolicy", "")
    path = None if source is None else source.get("file") or source.get("dev") or None
    return Disk(
        target="" if target is None else target.get("dev", ""),
        type=element.get("type", "file"),
        device=device,
        format="" if driver is None else driver.get("type", ""),
        path=path,
        is_readonly=device == "cdrom" or element.find("readonly") is not None,
        is_shareable=element.find("shareable") is not None,
        may_be_missing=device in _REMOVABLE and policy in _MAY_BE_MISSING,
        elsewhere=b"" if source is None or path is not None else _canonical(source),
    )


def _canonical(source: etree._Element) -> bytes:
    """Return a source as text that is the same for the same source, in whatever document it stands."""
    copy = deepcopy(source)
    copy.tail = None
    copy.attrib.pop("index", None)  # libvirt's own, of a running guest
    return etree.tostring(copy, method="c14n2", strip_text=True)
