"""Tell whether a disk is still what it was when its guest's memory was saved; pure.

A memory knows what its disks hold: it has blocks of them in its cache, allocations half done
in its journal. Over a disk that was written since, it goes on as if nothing had happened, and
tears the file system apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from engine.disks.look import Look
from engine.disks.writes import Writes
from engine.domxml.disks import Disk

#: Seconds that a disk may be newer than an image that virsh wrote: QEMU closes its disks only when the
#: image is whole, and libvirt waits so long for its end (virProcessKillPainfullyDelay).
QEMU_ENDS_SECONDS: Final = 15

#: What libvirt takes a disk for whose format is not said.
_DEFAULT_FORMAT: Final = "raw"
_SECOND_NS: Final = 1_000_000_000
#: What file systems and copying programs round times down to: 100 ns (SMB), microseconds, milliseconds,
#: hundredths and whole seconds (scp, tar). Rounding down never makes a disk that was written since fit.
_ROUNDINGS_NS: Final = (100, 1_000, 1_000_000, 10_000_000, _SECOND_NS)
#: Times that can be shown as dates, and that a kernel can give.
_TIMES_NS: Final = range(2**63)


def compare_disk(saved: Mapping[str, Any], disk: Disk, now: Look) -> list[str]:
    """Return in what a disk differs from the one of the save; nothing where it is the same.

    A file under another path, or another file under the same one, counts as a copy: it has to
    keep the time of the last change, though not more exactly than copying programs do.

    Args:
        saved: the entry of the manifest; whatever is missing in it, or of another type, is not compared.
        disk: as the domain XML of the restore has it.
        now: what is there.
    """
    reasons, is_another_file = [], is_copy(saved, disk, now)
    was_format, is_format = saved.get("format"), disk.format or _DEFAULT_FORMAT
    if isinstance(was_format, str) and (was_format or _DEFAULT_FORMAT) != is_format:
        reasons.append(f"is to be used as {is_format}, was {was_format or _DEFAULT_FORMAT}")
    if now.damage and isinstance(saved.get("qcow2"), dict):
        reasons.append(f"is no whole qcow2 any more ({now.damage})")
    reasons += _compare_sizes(saved, now)
    reasons += _compare_heads(saved.get("qcow2"), now, is_another_file)
    was_changed = saved_time(saved)
    if now.kind == "file" and was_changed is not None and not _fits(was_changed, now, is_another_file):
        verb = "was written since" if now.mtime_ns > was_changed else "is an older one"
        reasons.append(f"{verb} (changed {_shown(now.mtime_ns)}, then {_shown(was_changed)})")
    written = count_writes(saved, now)
    if written:
        reasons.append(f"was written since ({written} sectors)")
    return reasons


def count_writes(saved: Mapping[str, Any], now: Look) -> int | None:
    """Return the sectors that a block device has taken since the save; None where nobody can tell."""
    noted = saved.get("writes")
    if now.writes is None or not isinstance(noted, dict) or type(noted.get("sectors")) is not int:
        return None
    sequence = noted.get("sequence")
    earlier = Writes(
        sectors=noted["sectors"],
        device=str(noted.get("device")),
        sequence=sequence if type(sequence) is int else None,
        boot_id=str(noted.get("boot_id")),
    )
    return now.writes.since(earlier)


def compare_times(image_mtime_ns: int, now: Look) -> list[str]:
    """Return why a disk does not fit an image without a manifest: it is newer; nothing where it is not.

    Args:
        image_mtime_ns: last change of the image file, nanoseconds since 1970.
        now: what is there.
    """
    if now.kind != "file" or now.mtime_ns <= image_mtime_ns + QEMU_ENDS_SECONDS * _SECOND_NS:
        return []
    return [f"was written since (changed {_shown(now.mtime_ns)}, the image {_shown(image_mtime_ns)})"]


def is_copy(saved: Mapping[str, Any], disk: Disk, now: Look) -> bool:
    """Tell whether the file is another one than that of the save."""
    return (
        saved.get("path") != disk.path
        or _differs(saved.get("inode"), now.inode)
        or _differs(saved.get("generation"), now.generation)
    )


def saved_time(saved: Mapping[str, Any]) -> int | None:
    """Return the time of the disk's last change, nanoseconds since 1970; None where nobody noted one."""
    found = saved.get("mtime_ns")
    # The time of a device node is not that of the data behind it.
    is_known = type(found) is int and found in _TIMES_NS and saved.get("type") == "file"
    return found if is_known else None


def _compare_sizes(saved: Mapping[str, Any], now: Look) -> list[str]:
    head = saved.get("qcow2")
    was = head.get("virtual_size") if isinstance(head, dict) else saved.get("size")
    if isinstance(head, dict) == (now.qcow2 is not None) and _differs(was, now.virtual_size):
        return [f"holds {now.virtual_size} bytes, held {was}"]
    return []


def _compare_heads(saved: object, now: Look, is_another_file: bool) -> list[str]:
    """Compare what a block device shows of later writes; a copy may have its tables elsewhere."""
    if not isinstance(saved, dict) or now.qcow2 is None:
        return []
    head = now.qcow2
    reasons = []
    if _differs(saved.get("snapshots"), head.snapshots):
        reasons.append(f"has {head.snapshots} internal snapshots, had {saved.get('snapshots')}")
    if not is_another_file and _differs(saved.get("l1_offset"), head.l1_offset):
        reasons.append("has its L1 table in another place")
    return reasons


def _fits(was_changed: int, now: Look, is_another_file: bool) -> bool:
    if now.mtime_ns == was_changed:
        return True
    return is_another_file and any(
        now.mtime_ns == was_changed - was_changed % rounding for rounding in _ROUNDINGS_NS
    )


def _differs(saved: object, now: int | None) -> bool:
    """Tell whether two numbers are both known, and not the same."""
    return type(saved) is int and now is not None and saved != now


def _shown(time_ns: int) -> str:
    """Return a time as people read it; with its fraction, since two may lie in one second."""
    moment = datetime.fromtimestamp(time_ns // _SECOND_NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % _SECOND_NS:09d}Z"
