"""Refuse a restore that would run a guest on disks that are not there, or not those its memory knows."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine.disks.access import QemuUser, find_barrier, find_refusal
from engine.disks.look import kind_of, look_at
from engine.disks.stale import compare_disk, compare_times, count_writes, is_copy, saved_time
from engine.domxml.disks import Disk, list_disks
from engine.domxml.document import parse_domain_xml
from engine.errors import StaleDiskError, StorageError
from engine.image.manifest import Manifest
from engine.operation import Operation

#: By the type of a disk, which is also the kind of its source: the words for that.
_KINDS: Final = {"file": "regular file", "block": "block device"}
_FORCE_HINT: Final = (
    "restore a newer image of the guest; --force-stale-disks restores this one, and may corrupt the "
    "file systems on these disks"
)
_COPY_HINT: Final = f"copy disks with the time of their last change (cp -p, rsync -a); else {_FORCE_HINT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedDisks:
    """What is known of the disks at the time of the save."""

    #: Entries of the manifest by target; empty where there is no manifest.
    entries: Mapping[str, Mapping[str, Any]]
    #: Last change of the image file, nanoseconds since 1970: all there is to go by without an entry.
    image_mtime_ns: int

    @classmethod
    def of(cls, manifest: Manifest | None, image_mtime_ns: int) -> SavedDisks:
        """Return what an image's manifest knows, if it has one."""
        listed = [] if manifest is None else manifest.disks
        entries = {str(entry.get("target")): entry for entry in listed}
        return cls(entries=entries, image_mtime_ns=image_mtime_ns)


def check_disks(
    operation: Operation,
    name: str,
    domain_xml: str,
    saved: SavedDisks,
    *,
    qemu_user: tuple[int, int] | None = None,
    force_stale_disks: bool = False,
) -> list[str]:
    """Refuse disks that a guest must not be restored over; return what else is to be said of them.

    Args:
        operation: the surroundings.
        name: of the domain, for errors.
        domain_xml: what the restore will use.
        saved: the disks as they were.
        qemu_user: user and group id of QEMU; None = this process's own, as with a session daemon.
        force_stale_disks: warn of disks that changed instead of refusing them.

    Raises:
        StorageError: a disk is missing, of another kind, or QEMU may not open it; not to be forced.
        StaleDiskError: a writable disk is not what it was when the memory was saved.
    """
    disks = list_disks(parse_domain_xml(domain_xml, where=name))
    if operation.hypervisor.is_simulated:
        return ["the disks were not looked at: simulated guests have none on this host"] if disks else []
    warnings = check_sources(disks, qemu_user)
    return warnings + check_fresh(name, disks, saved, force_stale_disks=force_stale_disks)


def check_sources(disks: Sequence[Disk], qemu_user: tuple[int, int] | None = None) -> list[str]:
    """Refuse disks whose data is not there, or that QEMU may not open; return what cannot be known.

    Args:
        disks: of the domain XML that the restore will use.
        qemu_user: user and group id of QEMU; None = this process's own.

    Raises:
        StorageError: of the first such disk.
    """
    user, warnings = QemuUser.of(qemu_user), []
    for disk in disks:
        if disk.path is not None:
            try:
                warnings += _check_source(disk, Path(disk.path), user)
            except StorageError as error:
                if not disk.may_be_missing:
                    raise
                warnings.append(f"{error.message}: the guest is restored with an empty drive")
        elif not disk.is_empty:
            warnings.append(f"disk {disk.target} is of type {disk.type}: it cannot be looked at from here")
    return warnings


def check_separate(saved_xml: str, copy_xml: str, *, where: str) -> list[str]:
    """Refuse disks of a copy that are the original's, which would write them at the same time.

    Returns: what cannot be known, a sentence each.

    Raises:
        StorageError: it names the first such disk.
    """
    theirs = list_disks(parse_domain_xml(saved_xml, where=where))
    taken = {_key_of(disk) for disk in theirs if not disk.is_empty}
    warnings = []
    for disk in list_disks(parse_domain_xml(copy_xml, where=where)):
        if disk.is_readonly or disk.is_shareable or disk.is_empty:
            continue
        if _key_of(disk) in taken:
            raise StorageError(
                f"disk {disk.target} of {where}",
                f"{disk.path or f'its {disk.type} source'} is the original's", "a disk of its own",
                "copy it (cp -p), and give the copy's disk its new place with --rewrite",
            )  # fmt: skip
        if disk.path is None:
            warnings.append(f"disk {disk.target} is of type {disk.type}: see that it is not the original's")
    return warnings


def _key_of(disk: Disk) -> tuple[int, int] | str | bytes:
    """Return what tells a disk's file, device or source from others, its path where it is not there."""
    if disk.path is None:
        return disk.elsewhere
    try:
        state = Path(disk.path).stat()
    except OSError:
        return os.path.realpath(disk.path)
    # Of a block device its number; two nodes may lead to one.
    return (0, state.st_rdev) if stat.S_ISBLK(state.st_mode) else (state.st_dev, state.st_ino)


def check_fresh(
    name: str, disks: Sequence[Disk], saved: SavedDisks, *, force_stale_disks: bool = False
) -> list[str]:
    """Refuse writable disks that are not what the memory knows; return what else changed, or cannot be known.

    Raises:
        StaleDiskError: it names them all.
    """
    stale, warnings, has_copy = [], [], False
    for disk in disks:
        if disk.path is None:
            continue
        try:
            now = look_at(Path(disk.path), disk_format=disk.format)
        except OSError:
            continue  # check_sources has its say on that
        entry = saved.entries.get(disk.target, {})
        reasons = compare_disk(entry, disk, now)
        if saved_time(entry) is None:
            reasons += compare_times(saved.image_mtime_ns, now)
        if now.unreadable:
            warnings.append(f"disk {disk.target} ({disk.path}) cannot be read from here: {now.unreadable}")
        if now.kind == "block" and not disk.is_readonly and count_writes(entry, now) is None:
            warnings.append(
                f"disk {disk.target} ({disk.path}) is a block device: whether it was written since is unknown"
            )
        if not reasons:
            continue
        sentence = f"disk {disk.target} ({disk.path}) {' and '.join(reasons)}"
        if disk.is_readonly:
            warnings.append(sentence)
            continue
        stale.append(sentence)
        has_copy = has_copy or (bool(entry) and is_copy(entry, disk, now))
    if stale and not force_stale_disks:
        hint = _COPY_HINT if has_copy else _FORCE_HINT
        raise StaleDiskError(name, "; ".join(stale), "the disks as they were when its memory was saved", hint)
    return warnings + [f"forced: {sentence}" for sentence in stale]


def _check_source(disk: Disk, path: Path, user: QemuUser) -> list[str]:
    """Refuse one disk; return what is to be said of it.

    Raises:
        StorageError: it is not there, of another kind, or may not be opened.
    """
    where = f"disk {disk.target}"
    if barrier := find_barrier(path, user):
        raise StorageError(
            where, f"{path} cannot be reached: {barrier}", "directories that may be searched",
            "open them (chmod, setfacl), or give the disk's new place with --dxml",
        )  # fmt: skip
    try:
        kind = kind_of(path)
        refusal = find_refusal(path, user, is_readonly=disk.is_readonly)
    except OSError as error:
        raise StorageError(
            where, f"{path}: {error.strerror}", "", "bring it back, or give its new place with --dxml"
        ) from error
    if disk.type in _KINDS and kind != disk.type:
        raise StorageError(
            where, f"{path} is no {_KINDS[disk.type]}", f"one, as disks of type {disk.type} are",
            "give the disk's type or its new place with --dxml",
        )  # fmt: skip
    if not refusal:
        return []
    if user.uid is None:
        raise StorageError(where, refusal, "", "give it to the user (chown, chmod)")
    return [f"{where}: {refusal}, unless libvirt gives it to QEMU (dynamic_ownership)"]
