"""Fill a disk to its last blocks under an image: the error says so, and nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from engine import preflight
from engine.directio.probe import free_bytes
from engine.directio.target import open_direct
from engine.errors import NoSpaceError
from engine.flags import BypassPolicy
from engine.units import KiB, MiB
from tests.data.file_systems import DISKS, STREAM_SIZE, Mounts, run, stream_bytes, write
from tests.fault.world import FaultyOs, MemoryHypervisor, World, guest_memory

pytestmark = pytest.mark.integration


@pytest.fixture(params=DISKS, ids=str)
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a file system of its own to each test."""
    with ExitStack() as stack:
        yield Mounts(tmp_path, stack).loop(*request.param)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes free."""
    # What was deleted a moment ago is free only then.
    run("sync", "--file-system", disk)
    with (disk / "hog").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, free_bytes(disk) - left)


def test_full_disk_is_told_with_the_byte(disk: Path) -> None:
    """Writing and reserving on a full disk end with the error of its own, which names the first byte lost."""
    file = open_direct(disk / "image", os.O_RDWR | os.O_CREAT | os.O_EXCL, BypassPolicy.REQUIRE)
    fill(disk, 2 * MiB)

    with closing(file):
        with pytest.raises(NoSpaceError, match=r"writing at byte \d+") as caught:
            write(file, stream_bytes())
        with pytest.raises(NoSpaceError, match="reserving"):
            file.reserve(STREAM_SIZE)

    assert caught.value.exit_code == 21


def test_save_on_a_disk_that_fills_up_loses_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in mid-stream: the guest runs on, and no name and no staging is left."""
    monkeypatch.setattr(preflight, "IMAGE_MARGIN", 1 * MiB)
    world = World(disk / "full", MemoryHypervisor(memory=guest_memory(3 * STREAM_SIZE)), FaultyOs())
    # The hypervisor knows of less memory than there is.
    world.hypervisor.know_memory(1 * MiB)
    world.before = world.hypervisor.domain
    fill(disk, 10 * MiB)

    with pytest.raises(NoSpaceError, match="writing at byte"):
        world.save()

    assert "head" in world.hypervisor.moments
    world.assert_nothing_happened()


@pytest.mark.parametrize("free", [0, 64 * KiB])
def test_save_on_a_full_disk_does_not_touch_the_guest(
    disk: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """What does not fit is refused beforehand: the guest is not even paused."""
    monkeypatch.setattr(preflight, "IMAGE_MARGIN", 1 * MiB)
    world = World(disk / f"no-room-{free}", MemoryHypervisor(memory=guest_memory(STREAM_SIZE)), FaultyOs())
    fill(disk, free + 64 * KiB)

    with pytest.raises(NoSpaceError):
        world.save()

    assert world.hypervisor.moments == []
    world.assert_nothing_happened()
