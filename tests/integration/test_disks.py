"""Look at disks that qemu-img made and changed, and at a block device: what a restore is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from engine.disks.identify import identify_disks
from engine.disks.look import Look, look_at
from engine.domxml.disks import Disk
from engine.errors import StaleDiskError
from engine.restoreguards import SavedDisks, check_fresh, check_sources
from tests.data.file_systems import Mounts, run

pytestmark = pytest.mark.integration

SIZE = 16 * 1024 * 1024


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    """Give a new disk of 16 MiB."""
    path = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, SIZE)
    return path


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """Give a block device of 16 MiB."""
    with ExitStack() as stack:
        file = tmp_path / "device.img"
        file.write_bytes(b"")
        run("truncate", "--size", SIZE, file)
        path = run("losetup", "--show", "--find", file)
        stack.callback(run, "losetup", "--detach", path)
        yield Path(path)


@pytest.fixture
def partition(device: Path) -> Iterator[Path]:
    """Give a partition of a block device."""
    run("addpart", device, 1, 2048, 4096)
    yield Path(f"{device}p1")
    run("delpart", device, 1)


def disk_at(path: Path, *, source: str = "file", disk_format: str = "qcow2") -> Disk:
    """Return the disk of a guest."""
    return Disk(
        target="vda", type=source, device="disk", format=disk_format, path=str(path), is_readonly=False,
        is_shareable=False, may_be_missing=False,
    )  # fmt: skip


def look(path: Path) -> Look:
    """Return what is seen of a qcow2, in which nothing is damaged."""
    found = look_at(path, disk_format="qcow2")
    assert (found.damage, found.unreadable) == ("", "")
    return found


def saved_with(disk: Disk) -> SavedDisks:
    """Return what a manifest of this instant would know."""
    return SavedDisks(entries={disk.target: identify_disks([disk])[0]}, image_mtime_ns=0)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("cluster_size", [512, 65536, 2 * 1024 * 1024])
def test_every_kind_of_qcow2_is_read(tmp_path: Path, compat: str, cluster_size: int) -> None:
    """Both versions, with the smallest and the largest clusters, a long chain's name included."""
    base, path = tmp_path / f"{'b' * 200}.raw", tmp_path / "a.qcow2"
    run("truncate", "--size", SIZE, base)
    options = f"compat={compat},cluster_size={cluster_size}"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, "-o", options, path, SIZE * 2)

    head = look(path).qcow2

    assert head is not None
    assert (head.virtual_size, 1 << head.cluster_bits) == (SIZE * 2, cluster_size)
    assert head.backing_file == str(base)
    assert (head.version, head.snapshots, head.bitmaps) == (2 if compat == "0.10" else 3, 0, None)


def test_snapshots_size_and_bitmaps_are_seen(qcow2: Path) -> None:
    """All that qemu-img changes in a head."""
    before = look(qcow2)
    run("qemu-img", "snapshot", "-c", "one", qcow2)
    run("qemu-img", "bitmap", "--add", "-g", "32k", qcow2, "since-backup")
    with_both = look(qcow2)
    run("qemu-img", "snapshot", "-d", "one", qcow2)
    run("qemu-img", "resize", "-q", qcow2, SIZE * 2)

    assert before.qcow2 is not None
    assert with_both.qcow2 is not None
    assert (before.qcow2.snapshots, with_both.qcow2.snapshots) == (0, 1)
    assert [asdict(bitmap) for bitmap in with_both.bitmaps] == [
        {"name": "since-backup", "granularity_bits": 15, "flags": 2}
    ]
    assert (before.virtual_size, look(qcow2).virtual_size) == (SIZE, SIZE * 2)


def test_write_into_an_external_data_file_is_seen(tmp_path: Path) -> None:
    """The qcow2 itself keeps its time: its guest's data is elsewhere."""
    path, data = tmp_path / "a.qcow2", tmp_path / "a.data"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", path, SIZE)
    run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", path)
    disk = disk_at(path)
    saved, mtime_ns = saved_with(disk), path.stat().st_mtime_ns
    assert check_fresh("web-1", [disk], saved) == []

    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", path)

    assert path.stat().st_mtime_ns == mtime_ns
    with pytest.raises(StaleDiskError, match="was written since"):
        check_fresh("web-1", [disk], saved)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_file_that_took_anothers_inode_has_another_generation(tmp_path: Path, kind: str) -> None:
    """A copy under the same path is told from the file of the save, even where the number came back."""
    seen = []
    with ExitStack() as stack:
        path = Mounts(tmp_path, stack).loop(kind, 512) / "a.raw"
        for _ in range(3):
            path.write_bytes(b"x")
            found = look_at(path, disk_format="raw")
            seen.append((found.inode, found.generation))
            path.unlink()

    # ext4 gives the number out again at once, xfs later.
    assert len({inode for inode, _ in seen}) == (1 if kind == "ext4" else 3)
    assert len({generation for _, generation in seen} - {None}) == 3


def test_looking_with_qemu_is_no_write(qcow2: Path) -> None:
    """An operator may ask qemu-img about a disk and restore its guest."""
    disk = disk_at(qcow2)
    saved = saved_with(disk)
    run("qemu-img", "info", qcow2)
    run("qemu-img", "check", "-q", qcow2)
    run("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 64k", qcow2)

    assert check_fresh("web-1", [disk], saved) == []


@pytest.mark.parametrize("kind", ["device", "partition"])
def test_block_device_is_told_by_what_was_written_to_it(kind: str, request: pytest.FixtureRequest) -> None:
    """The kernel counts, of partitions as well; reading is no write."""
    disk = disk_at(request.getfixturevalue(kind), source="block", disk_format="raw")
    saved = saved_with(disk)
    run("dd", f"if={disk.path}", "of=/dev/null", "bs=64k", "iflag=direct")
    assert check_sources([disk]) == []
    assert check_fresh("web-1", [disk], saved) == []

    run("dd", "if=/dev/zero", f"of={disk.path}", "bs=512", "count=1", "oflag=direct")

    with pytest.raises(StaleDiskError, match=r"was written since \(1 sectors\)"):
        check_fresh("web-1", [disk], saved)


def test_block_device_that_came_back_is_told_by_its_size_and_head(device: Path, qcow2: Path) -> None:
    """Its count began anew: whether it was written nobody can tell, and so it is said."""
    run("dd", f"if={qcow2}", f"of={device}", "bs=64k", "oflag=direct", "conv=notrunc")
    disk = disk_at(device, source="block")
    saved = saved_with(disk)
    file = run("losetup", "--noheadings", "--output", "BACK-FILE", device)
    run("losetup", "--detach", device)
    run("losetup", device, file)

    (warning,) = check_fresh("web-1", [disk], saved)

    assert "whether it was written since is unknown" in warning
    assert look(device).size == SIZE
    run("qemu-img", "snapshot", "-c", "one", device)
    with pytest.raises(StaleDiskError, match="1 internal snapshots, had 0"):
        check_fresh("web-1", [disk], saved)
