from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from engine.directio.residency import resident_bytes
from engine.disks import look
from engine.disks.look import Look, look_at
from engine.flags import BypassPolicy
from engine.image.qcow2 import Bitmap, BitmapsExtension, Qcow2Header
from tests.data.qcow2_files import make_directory, make_qcow2
from tests.fault.world import FaultyOs

CLUSTER = 65536


def write_qcow2(path: Path, **fields: Any) -> Path:
    """Write the head of a disk, and a bitmap directory behind it."""
    directory = make_directory([Bitmap(name="since-backup", granularity_bits=16, flags=2)])
    listed = BitmapsExtension(count=1, directory_size=len(directory), directory_offset=CLUSTER + 24)
    values: dict[str, Any] = {
        "version": 3, "virtual_size": 2**24, "cluster_bits": 16, "l1_size": 1, "l1_offset": 196608,
        "snapshots": 0, "incompatible_features": 0, "compatible_features": 0, "autoclear_features": 1,
        "backing_file": None, "data_file": None, "bitmaps": listed,
    }  # fmt: skip
    head = make_qcow2(Qcow2Header(**{**values, **fields}))
    path.write_bytes(head + bytes(24) + directory)
    return path


def sync(path: Path) -> int:
    """Empty the cache of a file; return what stays."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return resident_bytes(file.fileno())


def test_file_is_known_by_size_time_and_inode(tmp_path: Path) -> None:
    """Through a link as well, which is how logical volumes are named."""
    file, link = tmp_path / "a.raw", tmp_path / "link"
    file.write_bytes(bytes(5000))
    link.symlink_to(file)
    state = file.stat()

    found = look_at(link, disk_format="raw")

    assert (found.kind, found.size, found.virtual_size) == ("file", 5000, 5000)
    assert (found.mtime_ns, found.inode) == (state.st_mtime_ns, state.st_ino)
    assert found.qcow2 is None
    assert not found.unreadable


def test_qcow2_is_looked_into(tmp_path: Path) -> None:
    """Its virtual size counts, not that of the file; bitmaps are listed."""
    found = look_at(write_qcow2(tmp_path / "a.qcow2"), disk_format="qcow2")

    assert found.virtual_size == 2**24
    assert found.bitmaps == (Bitmap(name="since-backup", granularity_bits=16, flags=2),)


def test_other_formats_are_not_looked_into(tmp_path: Path) -> None:
    """A raw disk that holds a qcow2 is a raw disk: its guest may have put it there."""
    found = look_at(write_qcow2(tmp_path / "a.qcow2"), disk_format="raw")

    assert found.qcow2 is None
    assert found.virtual_size == found.size


def test_looking_leaves_nothing_in_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With direct I/O, and where it has to do without."""
    file = write_qcow2(tmp_path / "a.qcow2")
    with file.open("ab") as opened:
        opened.write(bytes(2**20))
    assert sync(file) == 0

    assert look_at(file, disk_format="qcow2").bitmaps
    with file.open("rb") as opened:
        assert resident_bytes(opened.fileno()) == 0

    monkeypatch.setattr(look, "BypassPolicy", _OnlyOff)
    assert look_at(file, disk_format="qcow2").bitmaps
    with file.open("rb") as opened:
        assert resident_bytes(opened.fileno()) == 0


class _OnlyOff:
    """Takes the place of the policy, as if no file system had direct I/O."""

    PREFER = BypassPolicy.OFF


def test_disk_that_is_no_qcow2_says_so(tmp_path: Path) -> None:
    """It is there, and it can be told from one that could not be read."""
    file = tmp_path / "a.qcow2"
    file.write_bytes(bytes(512))

    found = look_at(file, disk_format="qcow2")

    assert "magic" in found.damage
    assert found.size == 512


def test_data_file_counts_as_the_disk(tmp_path: Path) -> None:
    """The guest writes there, and the qcow2 itself keeps its time."""
    file = write_qcow2(tmp_path / "a.qcow2", data_file="a.data")
    data = tmp_path / "a.data"
    data.write_bytes(b"x")
    os.utime(data, ns=(4 * 10**18, 4 * 10**18))

    assert look_at(file, disk_format="qcow2").mtime_ns == 4 * 10**18
    data.unlink()
    assert "data file" in look_at(file, disk_format="qcow2").damage


@pytest.mark.parametrize("error", [None, OSError(errno.EROFS, "Read-only file system")])
def test_disk_of_a_guest_that_ended_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    """Else a power cut could take the time of its last change back; one that cannot be is looked at still."""
    file, seen = tmp_path / "a.raw", []
    file.write_bytes(b"x")
    disk = FaultyOs()
    disk.plan("fsync", error or (lambda real, fd: seen.append(real(fd))), name="a.raw")
    monkeypatch.setattr(look, "os", disk)

    look_at(file, disk_format="raw")
    assert not seen
    assert look_at(file, disk_format="raw", is_to_be_synced=True).size == 1

    assert len(seen) == (0 if error else 1)


def test_pipe_is_not_opened(tmp_path: Path) -> None:
    """Whoever opened it would wait for ever."""
    os.mkfifo(tmp_path / "fifo")

    assert look_at(tmp_path / "fifo", disk_format="raw").kind == "other"


def test_missing_disk_is_an_error(tmp_path: Path) -> None:
    """As of the system call."""
    with pytest.raises(FileNotFoundError):
        look_at(tmp_path / "none", disk_format="raw")


@pytest.mark.parametrize("offset", [2**62 + 1, 2**63, 2**64 - 1])
def test_directory_beyond_every_file_is_no_directory(tmp_path: Path, offset: int) -> None:
    """A header that lies of where its bitmaps are costs nothing."""
    lie = BitmapsExtension(count=1, directory_size=64, directory_offset=offset)

    found: Look = look_at(write_qcow2(tmp_path / "a.qcow2", bitmaps=lie), disk_format="qcow2")

    assert found.bitmaps == ()
    assert found.qcow2 is not None
