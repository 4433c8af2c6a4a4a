from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.disks.access import QemuUser, find_barrier, find_refusal

STRANGER = QemuUser.of((64055, 64055))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a directory that everybody may search; those of pytest are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_closed_directory_is_named(folder: Path) -> None:
    """Anywhere on the way; the modes of the owner, its group and all others count."""
    closed = folder / "closed"
    disk = closed / "open" / "a.raw"
    disk.parent.mkdir(parents=True)
    disk.parent.chmod(0o755)
    closed.chmod(0o700)
    os.chown(closed, 1, 2)

    assert f"{closed} may not be searched by QEMU's user (uid 64055)" in find_barrier(disk, STRANGER)
    for user in (QemuUser(uid=1), QemuUser(uid=0)):
        assert find_barrier(disk, user) == ""
    closed.chmod(0o710)
    assert find_barrier(disk, QemuUser(uid=64055, groups=frozenset({2}))) == ""
    closed.chmod(0o701)
    assert find_barrier(disk, STRANGER) == ""
    # The owner's own bits count for the owner, even where all others may more.
    closed.chmod(0o601)
    assert "may not be searched" in find_barrier(disk, QemuUser(uid=1))


def test_way_through_a_link_has_two_ends(folder: Path) -> None:
    """The directories of the link's target count as well."""
    target, link = folder / "closed" / "a.raw", folder / "a.raw"
    target.parent.mkdir(mode=0o700)
    target.touch()
    link.symlink_to(target)

    assert f"{target.parent} may not be searched" in find_barrier(link, STRANGER)


def test_missing_directory_is_named(folder: Path) -> None:
    """The first that is not there."""
    assert find_barrier(folder / "a" / "b" / "c.raw", QemuUser.of(None)) == f"{folder}/a does not exist"
    (folder / "a").touch()
    assert "a is no directory" in find_barrier(folder / "a" / "c.raw", QemuUser.of(None))


def test_acl_is_left_to_qemu(folder: Path) -> None:
    """It may grant what the mode does not; nobody is refused for what was not understood."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    disk = closed / "a.raw"
    disk.touch(mode=0o600)
    assert find_barrier(disk, STRANGER)

    _grant(closed, 64055)

    assert find_barrier(disk, STRANGER) == ""


@pytest.mark.parametrize(
    ("mode", "is_readonly", "refusal"),
    [(0o600, False, "read"), (0o604, False, "written"), (0o604, True, ""), (0o606, False, "")],
)
def test_file_is_read_and_written_by_its_mode(
    folder: Path, mode: int, is_readonly: bool, refusal: str
) -> None:
    """A disk that only has to be read needs no more."""
    disk = folder / "a.raw"
    disk.touch()
    disk.chmod(mode)

    found = find_refusal(disk, STRANGER, is_readonly=is_readonly)

    assert found == (f"{disk} may not be {refusal} by QEMU's user (uid 64055)" if refusal else "")


def test_this_process_is_asked_instead_of_computed(folder: Path) -> None:
    """Root may anything here, whatever the modes say."""
    disk = folder / "a.raw"
    disk.touch()
    disk.chmod(0)

    assert find_barrier(disk, QemuUser.of(None)) == ""
    assert find_refusal(disk, QemuUser.of(None), is_readonly=False) == ""


def test_user_that_has_a_name_has_its_groups() -> None:
    """As libvirt gives them to QEMU."""
    assert QemuUser.of((0, 4242)).groups >= {4242}


def _grant(directory: Path, uid: int) -> None:
    """Let one more user in, by an ACL of version 2: entries of tag, permissions and id."""
    entries = ((1, 7, 2**32 - 1), (2, 1, uid), (4, 0, 2**32 - 1), (16, 1, 2**32 - 1), (32, 0, 2**32 - 1))
    packed = b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + owner.to_bytes(4, "little")
        for tag, bits, owner in entries
    )
    os.setxattr(directory, "system.posix_acl_access", (2).to_bytes(4, "little") + packed)
    subprocess.run(
        ["setpriv", "--reuid", str(uid), "--clear-groups", "ls", directory / "a.raw"],
        check=True,
        capture_output=True,
    )
