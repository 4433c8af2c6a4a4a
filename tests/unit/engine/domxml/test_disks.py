from __future__ import annotations

import pytest
from lxml import etree

from engine.domxml.disks import Disk, list_disks


def read(*disks: str) -> tuple[Disk, ...]:
    """Return the disks of a domain with these elements."""
    return list_disks(etree.fromstring(f"<domain><devices>{''.join(disks)}</devices></domain>"))


def test_disk_is_read_with_all_that_matters() -> None:
    """A file that other guests write, too."""
    (disk,) = read(
        "<disk type='file' device='lun'><driver name='qemu' type='qcow2'/><source file='/srv/a'/>"
        "<target dev='sda'/><shareable/></disk>"
    )

    assert disk == Disk(
        target="sda", type="file", device="lun", format="qcow2", path="/srv/a", is_readonly=False,
        is_shareable=True, may_be_missing=False,
    )  # fmt: skip


def test_disks_keep_their_order_and_block_devices_their_path() -> None:
    """As in the document."""
    disks = read(
        "<disk type='block'><source dev='/dev/vg/a'/><target dev='vdb'/></disk>",
        "<disk><source file='/srv/a'/><target dev='vda'/><readonly/></disk>",
    )

    assert [(disk.target, disk.path, disk.type, disk.is_readonly) for disk in disks] == [
        ("vdb", "/dev/vg/a", "block", False),
        ("vda", "/srv/a", "file", True),
    ]


def test_drive_without_medium_is_empty_and_a_network_disk_is_not() -> None:
    """Neither has a path, yet the one has no data and the other has some elsewhere."""
    drive, disk = read(
        "<disk type='file' device='cdrom'><target dev='sda'/></disk>",
        "<disk type='network'><source protocol='rbd' name='pool/a'/><target dev='vda'/></disk>",
    )

    assert (drive.path, drive.is_empty, drive.is_readonly) == (None, True, True)
    assert (disk.path, disk.is_empty, disk.is_readonly) == (None, False, False)


@pytest.mark.parametrize(
    ("device", "policy", "may_be_missing"),
    [
        ("cdrom", "optional", True),
        ("floppy", "requisite", True),
        ("cdrom", "mandatory", False),
        ("disk", "optional", False),
    ],
)
def test_only_a_medium_may_be_missing(device: str, policy: str, may_be_missing: bool) -> None:
    """Without a hard disk the machine is another one than the memory's."""
    (disk,) = read(f"<disk type='file' device='{device}'><source file='/a' startupPolicy='{policy}'/></disk>")

    assert disk.may_be_missing is may_be_missing
