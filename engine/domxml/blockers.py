"""Name what in a domain keeps its guest from being saved.

Source: libvirt src/qemu/qemu_migration.c, qemuMigrationSrcIsAllowed().
"""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """One device or setting."""

    #: What it is, with the name an operator knows it by.
    what: str
    hint: str
    #: libvirt refuses for certain; else it depends on device, driver and version.
    is_certain: bool


def list_blockers(root: etree._Element) -> list[Blocker]:
    """Return the known blockers of a domain, in document order."""
    found = [
        Blocker(
            what=f"host device ({device.get('type', 'unknown')})",
            hint="detach it first (virsh detach-device) unless its driver can be migrated",
            is_certain=False,
        )
        for device in root.iterfind("devices/hostdev")
        if device.get("type") in {"pci", "mdev", "scsi_host"}
    ]
    found += [
        Blocker(
            what=f"virtiofs file system {_attribute(system, 'target', 'dir')!r}",
            hint="detach it first unless virtiofsd can be migrated",
            is_certain=False,
        )
        for system in root.iterfind("devices/filesystem")
        if _attribute(system, "driver", "type") == "virtiofs"
    ]
    found += [
        Blocker(
            what=f"transient disk {_attribute(disk, 'target', 'dev')!r}",
            hint="its content goes with the guest: detach it first",
            is_certain=True,
        )
        for disk in root.iterfind("devices/disk")
        if disk.find("transient") is not None
    ]
    found += [
        Blocker(
            what=f"shared memory {memory.get('name', '')!r} as a peer",
            hint="only the master of a shared memory can be saved: detach it first",
            is_certain=True,
        )
        for memory in root.iterfind("devices/shmem")
        if memory.get("role") == "peer"
    ]
    return found


def _attribute(element: etree._Element, child: str, name: str) -> str:
    found = element.find(child)
    return "" if found is None else found.get(name, "")
