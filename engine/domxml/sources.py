"""List where the content of a domain's disks lies, for whoever checks that it is there."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from engine.domxml.kinds.disk import LOCATIONS, iter_sources


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSource:
    """One file, block device, export or volume that a disk reads from."""

    #: The disk's name in the guest, such as "vda".
    target: str
    #: "file", "block", "dir", "network", "volume"...
    type: str
    #: A path; "nbd:name" in a network, "pool/volume" in a pool.
    location: str
    #: The disk is, or it belongs to an image under the disk's own.
    is_readonly: bool
    #: Other domains may write to it at the same time.
    is_shareable: bool


def list_sources(root: etree._Element) -> list[DiskSource]:
    """Return the sources of all disks of a <domain>, each disk's own before those below it.

    A drive without a medium has none.
    """
    found = []
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target")
        for source, kind in iter_sources(disk):
            location = _location_of(source, kind)
            if location:
                found.append(
                    DiskSource(
                        target="" if target is None else target.get("dev", ""),
                        type=kind,
                        location=location,
                        is_readonly=disk.find("readonly") is not None or _is_below(source),
                        is_shareable=disk.find("shareable") is not None,
                    )
                )
    return found


def _is_below(source: etree._Element) -> bool:
    """Tell whether it belongs to an image under the disk's own: the guest's writes never get there."""
    return next(source.iterancestors("backingStore"), None) is not None


def _location_of(source: etree._Element, kind: str) -> str:
    """Return where a source lies, empty where it does not say."""
    attribute = LOCATIONS.get(kind)
    location = source.get(attribute, "") if attribute else ""
    if not location:
        return ""
    if kind == "network":
        return f"{source.get('protocol', '')}:{location}"
    if kind == "volume":
        return f"{source.get('pool', '')}/{location}"
    return location
