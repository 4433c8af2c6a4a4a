from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.disks.identify import identify_disks
from engine.domxml.disks import Disk
from engine.errors import StaleDiskError, StorageError, WrongStateError
from engine.restoreguards import SavedDisks, check_fresh, check_separate, check_sources

SECOND = 10**9
#: An image that is older than everything a test makes.
OLD_IMAGE = 1_000_000_000 * SECOND


def disk_at(path: Path | None, **fields: Any) -> Disk:
    """Return a raw disk whose data is in a file."""
    values: dict[str, Any] = {
        "target": "vda", "type": "file", "device": "disk", "format": "raw", "is_readonly": False,
        "is_shareable": False, "may_be_missing": False,
    }  # fmt: skip
    return Disk(**{**values, "path": None if path is None else str(path), **fields})


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Give a disk that is there."""
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(4096))
    return disk_at(path)


def saved_with(*disks: Disk) -> SavedDisks:
    """Return what a manifest of this instant would know."""
    entries = {entry["target"]: entry for entry in identify_disks(disks)}
    return SavedDisks(entries=entries, image_mtime_ns=OLD_IMAGE)


def write(disk: Disk) -> None:
    """Change a byte of a disk as a guest would, some time later."""
    assert disk.path is not None
    before = Path(disk.path).stat().st_mtime_ns
    with Path(disk.path).open("r+b") as file:
        file.write(b"x")
    os.utime(disk.path, ns=(before + SECOND, before + SECOND))


def test_untouched_disk_passes(disk: Disk) -> None:
    """And nothing is said of it, though the image by its own age would be too old."""
    assert check_sources([disk]) == []
    assert check_fresh("web-1", [disk], saved_with(disk)) == []


def test_all_stale_disks_are_named_in_one_sentence(tmp_path: Path) -> None:
    """Those that are as they were are not; the way out is in the hint."""
    disks = []
    for target in ("vda", "vdb", "vdc"):
        path = tmp_path / target
        path.write_bytes(bytes(512))
        disks.append(disk_at(path, target=target))
    saved = saved_with(*disks)
    write(disks[0])
    write(disks[2])

    with pytest.raises(StaleDiskError) as caught:
        check_fresh("web-1", disks, saved)

    error = caught.value
    assert isinstance(error, WrongStateError)
    assert error.exit_code == 33
    assert error.where == "web-1"
    assert f"disk vda ({tmp_path}/vda) was written since" in error.message
    assert f"; disk vdc ({tmp_path}/vdc) was written since" in error.message
    assert "vdb" not in error.message
    assert "\n" not in str(error)
    assert "--force-stale-disks" in error.hint
    assert "cp -p" not in error.hint


def test_forced_disks_become_warnings(disk: Disk) -> None:
    """Whoever insists is told over what."""
    saved = saved_with(disk)
    write(disk)

    (warning,) = check_fresh("web-1", [disk], saved, force_stale_disks=True)

    assert warning.startswith(f"forced: disk vda ({disk.path}) was written since")


def test_readonly_disk_that_changed_is_a_warning(disk: Disk) -> None:
    """The guest cannot tear it apart."""
    readonly = replace(disk, is_readonly=True)
    saved = saved_with(readonly)
    write(readonly)

    (warning,) = check_fresh("web-1", [readonly], saved)

    assert "vda" in warning


def test_copy_without_its_time_is_told_how_to_copy(disk: Disk, tmp_path: Path) -> None:
    """The hint says which programs keep the time."""
    saved = saved_with(disk)
    copy = tmp_path / "b.raw"
    copy.write_bytes(bytes(4096))
    os.utime(copy, ns=(time.time_ns() + SECOND,) * 2)

    with pytest.raises(StaleDiskError, match=r"cp -p, rsync -a"):
        check_fresh("web-1", [disk_at(copy)], saved)


def test_disk_without_an_entry_is_held_against_the_image(disk: Disk) -> None:
    """As all are whose image virsh made."""
    assert disk.path is not None
    changed = Path(disk.path).stat().st_mtime_ns
    of_its_age = SavedDisks.of(None, changed)

    assert check_fresh("web-1", [disk], of_its_age) == []
    with pytest.raises(StaleDiskError, match="the image 2001"):
        check_fresh("web-1", [disk], SavedDisks.of(None, OLD_IMAGE))


def test_disk_that_nobody_could_look_at_is_held_against_the_image(disk: Disk) -> None:
    """An entry that says nothing is as good as none."""
    entries = {"vda": {"target": "vda", "type": "file", "path": disk.path, "unreadable": "denied"}}

    with pytest.raises(StaleDiskError):
        check_fresh("web-1", [disk], SavedDisks(entries=entries, image_mtime_ns=OLD_IMAGE))


def test_disk_that_is_elsewhere_is_a_warning() -> None:
    """A network disk cannot be looked at; an empty drive has nothing to look at."""
    disks = [disk_at(None, type="network"), disk_at(None, device="cdrom", target="sda")]

    (warning,) = check_sources(disks)

    assert "vda is of type network" in warning
    assert check_fresh("web-1", disks, SavedDisks.of(None, OLD_IMAGE)) == []


@pytest.mark.parametrize("is_readonly", [False, True])
def test_missing_disk_is_refused(tmp_path: Path, is_readonly: bool) -> None:
    """Target and path are named; QEMU would not start without it."""
    path = tmp_path / "none.raw"

    with pytest.raises(StorageError, match=f"disk vda: {path}: No such file") as caught:
        check_sources([disk_at(path, is_readonly=is_readonly)])

    assert caught.value.exit_code == 20


def test_missing_medium_is_a_warning_where_libvirt_goes_without(tmp_path: Path) -> None:
    """The drive is empty then."""
    disk = disk_at(tmp_path / "none.iso", device="cdrom", is_readonly=True, may_be_missing=True)

    (warning,) = check_sources([disk])

    assert "empty drive" in warning


def test_source_of_another_kind_is_refused(disk: Disk, tmp_path: Path) -> None:
    """A file is no block device, a directory no file."""
    with pytest.raises(StorageError, match="is no block device"):
        check_sources([replace(disk, type="block")])
    with pytest.raises(StorageError, match="is no regular file"):
        check_sources([disk_at(tmp_path)])


def test_missing_directory_is_refused_by_its_name(tmp_path: Path) -> None:
    """Such as that of a share that is not mounted."""
    with pytest.raises(StorageError, match=f"{tmp_path}/share does not exist"):
        check_sources([disk_at(tmp_path / "share" / "a.raw")])


def test_closed_file_is_left_to_libvirt_and_a_closed_directory_is_not(tmp_path: Path) -> None:
    """It gives a system guest its files, never the directories they are in."""
    top = Path("/var/tmp")  # everybody may search it
    path = top / f"{tmp_path.name}-{os.getpid()}.raw"
    path.touch(mode=0o600)
    try:
        (warning,) = check_sources([disk_at(path)], (64055, 64055))
    finally:
        path.unlink()

    assert "may not be read by QEMU's user (uid 64055), unless libvirt" in warning
    closed = tmp_path / "a.raw"
    closed.touch()
    with pytest.raises(StorageError, match="may not be searched by QEMU's user"):
        check_sources([disk_at(closed)], (64055, 64055))


def test_manifest_that_names_no_target_is_passed_over(disk: Disk) -> None:
    """Whatever stands in it."""
    saved = SavedDisks(entries={"None": {}}, image_mtime_ns=time.time_ns())

    assert check_fresh("web-1", [disk], saved) == []


def domain(*disks: str) -> str:
    """Return the XML of a domain with these disks."""
    return f"<domain><name>web-1</name><devices>{''.join(disks)}</devices></domain>"


def file_disk(path: Path, flags: str = "") -> str:
    """Return the XML of a disk whose data is in a file."""
    return f"<disk type='file'><source file='{path}'/><target dev='vda'/>{flags}</disk>"


def export(name: str, attributes: str = "", space: str = "") -> str:
    """Return the XML of a disk whose data is a server's."""
    return (
        f"<disk type='network'><source protocol='nbd' name='{name}'{attributes}>{space}"
        f"<host name='store-1' port='10809'/>{space}</source><target dev='vda'/></disk>"
    )


@pytest.mark.parametrize("link", [False, True])
def test_a_copy_gets_no_file_of_the_originals(tmp_path: Path, link: bool) -> None:
    """By whatever path it comes, two guests would write it."""
    theirs, ours = tmp_path / "a.raw", tmp_path / "b.raw"
    theirs.write_bytes(b"")
    if link:
        ours.hardlink_to(theirs)

    with pytest.raises(StorageError, match="is the original's, want a disk of its own"):
        check_separate(domain(file_disk(theirs)), domain(file_disk(ours if link else theirs)), where="web-2")


def test_a_copy_gets_no_file_that_is_not_there_yet(tmp_path: Path) -> None:
    """Then its path is all there is to go by."""
    with pytest.raises(StorageError, match="is the original's"):
        check_separate(
            domain(file_disk(tmp_path / "a.raw")), domain(file_disk(tmp_path / "." / "a.raw")), where="web-2"
        )


@pytest.mark.parametrize(
    "disk",
    [
        export("web-1"),
        "<disk type='volume'><source pool='fast' volume='web-1'/><target dev='vda'/></disk>",
        "<disk type='nvme'><source type='pci' namespace='1'><address bus='0x41'/></source></disk>",
    ],
)
def test_a_copy_gets_no_export_or_volume_of_the_originals(disk: str) -> None:
    """Nothing of it can be looked at from here, yet the same is the same."""
    with pytest.raises(StorageError, match="source is the original's, want a disk of its own"):
        check_separate(domain(disk), domain(disk), where="web-2")


def test_the_same_export_is_known_however_it_is_written() -> None:
    """Sources of a running guest have numbers, and documents differ in their spaces."""
    with pytest.raises(StorageError, match="its network source is the original's"):
        check_separate(domain(export("web-1", " index='2'")), domain(export("web-1", space="\n ")), where="w")


def test_of_another_export_is_said_that_nobody_can_tell() -> None:
    """Two names may lead to one export."""
    assert check_separate(domain(export("web-1")), domain(export("web-2")), where="web-2") == [
        "disk vda is of type network: see that it is not the original's"
    ]


@pytest.mark.parametrize("flags", ["<readonly/>", "<shareable/>"])
def test_a_copy_may_share_what_is_shared(tmp_path: Path, flags: str) -> None:
    """Disks that nobody writes, or that all may."""
    disk = file_disk(tmp_path / "a.raw", flags)

    assert check_separate(domain(disk), domain(disk), where="web-2") == []


def test_a_copy_may_have_an_empty_drive_as_the_original() -> None:
    """There is nothing in it that both could write."""
    drive = "<disk type='file' device='floppy'><target dev='fda'/></disk>"

    assert check_separate(domain(drive), domain(drive), where="web-2") == []
