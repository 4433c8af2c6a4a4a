"""Note which disks a guest has at this instant, so that a restore can tell whether they are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.disks.look import look_at
from engine.domxml.disks import Disk


def identify_disks(disks: Sequence[Disk], *, has_ended: bool = False) -> list[dict[str, Any]]:
    """Return what can be said of each disk now, as the manifest keeps it.

    target, type, device, format, path, readonly, shareable; for a file or block device also
    size (bytes), mtime_ns, inode, generation, and for qcow2 what its head says. A source that
    cannot be looked at, or into, has "unreadable" in place of what is not known. A block device
    has what was written to it so far.

    Args:
        disks: of the domain as it is now.
        has_ended: the guest does not use them any more. They are synced: QEMU has seen to their data,
            yet a power cut could still take the time of their last change back.
    """
    return [_identify(disk, is_to_be_synced=has_ended and not disk.is_readonly) for disk in disks]


def _identify(disk: Disk, *, is_to_be_synced: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "target": disk.target,
        "type": disk.type,
        "device": disk.device,
        "format": disk.format,
        "path": disk.path,
        "readonly": disk.is_readonly,
        "shareable": disk.is_shareable,
    }
    if disk.path is None:
        return entry
    try:
        found = look_at(Path(disk.path), disk_format=disk.format, is_to_be_synced=is_to_be_synced)
    except OSError as error:
        return entry | {"unreadable": error.strerror}
    entry |= {
        "size": found.size,
        "mtime_ns": found.mtime_ns,
        "inode": found.inode,
        "generation": found.generation,
    }
    if found.writes is not None:
        entry["writes"] = asdict(found.writes)
    if found.unreadable:
        entry["unreadable"] = found.unreadable
    if found.qcow2 is not None:
        entry["qcow2"] = asdict(found.qcow2) | {"bitmap_list": [asdict(one) for one in found.bitmaps]}
    return entry
