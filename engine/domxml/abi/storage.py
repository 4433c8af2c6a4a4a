"""Tell what the guest sees of disks and shared directories.

Source: libvirt src/conf/domain_conf.c, virDomainDiskDefCheckABIStability(), virDomainDiskInsert(),
virDomainFsDefCheckABIStability(); src/util/virutil.c, virDiskNameParse().
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Final

from engine.domxml.abi.device import ADDRESS, SHARED, UNCHECKED, VIRTIO
from engine.domxml.abi.table import Element, Group, Table, Version, Visible, free, same
from engine.domxml.abi.values import count, default, present, text_at

#: libvirt 9.0 does not compare block sizes.
_BLOCK_SIZES_SINCE: Final[Version] = (9, 1, 0)
_NAME: Final = re.compile(r"(?:fd|hd|vd|sd|xvd|ubd)([a-z]{1,6})[0-9]*", re.ASCII)


def _is_readonly(disk: Element) -> Hashable:
    return disk.get("device") == "cdrom" or disk.find("readonly") is not None


def order_disks(disks: Sequence[Element]) -> Sequence[Element]:
    """Return disks as libvirt keeps them: bus by bus as they first appear, by target name in each."""
    buses: dict[str | None, int] = {}
    for disk in disks:
        buses.setdefault(text_at(disk, "target/@bus"), len(buses))
    return sorted(
        disks,
        key=lambda disk: (buses[text_at(disk, "target/@bus")], _name_index(text_at(disk, "target/@dev"))),
    )


def _name_index(name: str | None) -> int:
    """Return the number of a disk in its name: 0 for sda, 26 for sdaa; -1 for what is no such name."""
    match = _NAME.fullmatch(name or "")
    if match is None:
        return -1
    index = 0
    for letter in match[1]:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


DISK: Final = Table(
    visible=(
        same("@device", "the guest would have another kind of disk", default("disk")),
        same("target/@bus", "the guest would find the disk on another bus"),
        same("target/@dev", "libvirt knows the disk by this name"),
        same("serial", "the guest sees the disk's serial number"),
        same("wwn", "the guest sees the disk's world wide name"),
        Visible(
            paths=("readonly",), read=_is_readonly, reason="the guest may write to one, not to the other"
        ),
        same("@model", "the guest would have another model of disk"),
        same("target/@rotation_rate", "the guest sees how fast the disk turns", count),
        same("driver/@queues", "the guest's driver uses so many queues", count),
        same("driver/@queue_size", "the guest's driver uses queues of this size", count),
        *(
            same(f"blockio/@{what}", "the guest sees the disk's block sizes", count, since=_BLOCK_SIZES_SINCE)
            for what in ("logical_block_size", "physical_block_size", "discard_granularity")
        ),
        *VIRTIO,
        *ADDRESS,
    ),
    free=(
        *free("where the host keeps the disk's content", "@type", "source", "backingStore", "mirror", "auth"),
        *free("where the host keeps the disk's content", "encryption", "transient"),
        *free("how the host reads and writes", "driver", "iotune", "throttlefilters", "blockio", "@rawio"),
        *free("how the host reads and writes", "shareable", "@sgio"),
        *free("only snapshots look at it", "@snapshot"),
        *free(UNCHECKED, "vendor", "product", "geometry", "target/@removable", "target/@tray"),
        *SHARED,
    ),
)
FILE_SYSTEM: Final = Table(
    visible=(
        same("target/@dir", "the guest mounts it by this name"),
        same("readonly", "the guest may write to one, not to the other", present),
        same("@model", "the guest would have another model of device"),
        *VIRTIO,
        *ADDRESS,
    ),
    free=(
        *free("where the host keeps the files", "@type", "source", "binary", "idmap"),
        *free("how the host reads and writes", "driver", "@accessmode", "@fmode", "@dmode", "@multidevs"),
        *free("how the host reads and writes", "space_hard_limit", "space_soft_limit"),
        *SHARED,
    ),
)
STORAGE: Final = (
    Group(
        path="devices/disk", table=DISK, noun="disk", order=order_disks,
        key=lambda disk: (text_at(disk, "target/@bus"), text_at(disk, "target/@dev")),
    ),
    Group(
        path="devices/filesystem", table=FILE_SYSTEM, noun="file system",
        key=lambda system: text_at(system, "target/@dir"),
    ),
)  # fmt: skip
