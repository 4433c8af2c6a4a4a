"""Change disks behind a saved guest's back, at any moment: its memory never runs over them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import StaleDiskError, StorageError
from engine.flags import BypassPolicy
from engine.newxml import XmlWish
from engine.outcome import Outcome
from engine.steps import Step
from tests.fault import world as surroundings
from tests.fault.world import World

SECOND = 10**9


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the one disk of the guest in memory."""
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(4096))
    element = f"<devices><disk type='file'><source file='{path}'/><target dev='vda'/></disk></devices>"
    monkeypatch.setattr(surroundings, "XML", surroundings.XML.replace("</domain>", f"{element}</domain>"))
    return path


@pytest.fixture
def world(make_world: Callable[..., World], disk: Path) -> World:
    """Give a running guest whose disk is on this host, and real."""
    assert disk.exists()
    world = make_world()
    world.hypervisor.is_simulated = False
    return world


def warnings_of(outcome: Outcome) -> list[str]:
    """Return what a restore says of disks; there is no host here whose capabilities could be asked for."""
    return [warning for warning in outcome.warnings if not warning.startswith("whether this host can run")]


def touch(disk: Path) -> None:
    """Let a second pass, and somebody write the disk."""
    later = disk.stat().st_mtime_ns + SECOND
    os.utime(disk, ns=(later, later))


def test_untouched_disk_lets_its_guest_go_on(world: World) -> None:
    """No warning, either."""
    world.save()

    assert warnings_of(world.restore()) == []


@pytest.mark.parametrize("moment", ["head", "midstream", "closed", "reopened", "committed"])
def test_what_qemu_writes_until_its_end_is_no_write_of_others(world: World, disk: Path, moment: str) -> None:
    """The disks are noted when the guest has ended, so that no restore is refused for nothing."""
    world.hypervisor.hooks[moment] = lambda: touch(disk)
    world.save()

    assert warnings_of(world.restore()) == []


def test_checkpoint_notes_the_disks_of_its_instant(world: World, disk: Path) -> None:
    """What its guest writes afterwards makes it stale."""
    taken = world.save(kind="checkpoint")
    world.hypervisor.domain = world.before
    touch(disk)
    manifest = json.loads((Path(taken.path) / "manifest.json").read_text())
    world.hypervisor.domain = surroundings.replace(world.before, run_id=-1, state="shut off")

    with pytest.raises(StaleDiskError):
        world.restore(Path(taken.path))

    assert manifest["disks"][0]["mtime_ns"] == disk.stat().st_mtime_ns - SECOND
    assert manifest["disks_consistent"] is False


@pytest.mark.parametrize("data_path", ["stream", "native"])
def test_stale_disk_starts_nothing(world: World, disk: Path, data_path: str) -> None:
    """Nobody calls libvirt; forced, the guest runs, and the outcome says over what."""
    world.save()
    touch(disk)
    world.begin_anew()

    with pytest.raises(StaleDiskError, match="vda"):
        world.restore(data_path=data_path, policy=BypassPolicy.OFF)

    assert world.hypervisor.moments == []
    assert world.listener.steps == []
    assert not world.hypervisor.domain.is_active
    forced = world.restore(data_path=data_path, policy=BypassPolicy.OFF, force_stale_disks=True)
    assert warnings_of(forced)[0].startswith("forced: disk vda")


def test_disk_written_while_the_image_is_proven_starts_nothing(world: World, disk: Path) -> None:
    """All of the image is read before libvirt reads it: long enough to run the guest without it."""
    world.save()
    world.begin_anew()
    world.listener.at[Step.VERIFIED] = lambda: touch(disk)

    with pytest.raises(StaleDiskError):
        world.restore(data_path="native", policy=BypassPolicy.OFF)

    assert world.hypervisor.moments == []


def test_native_save_notes_the_disks_before_it_reads_its_image(world: World, disk: Path) -> None:
    """Whoever writes them while it does was not the guest."""
    world.listener.at[Step.VERIFIED] = lambda: touch(disk)
    world.save(data_path="native", policy=BypassPolicy.OFF)
    world.begin_anew()

    with pytest.raises(StaleDiskError):
        world.restore()


def test_disks_are_those_of_the_dxml(world: World, disk: Path) -> None:
    """What the image's own XML names does not matter any more."""
    world.save()
    moved = disk.rename(disk.with_name("b.raw"))

    with pytest.raises(StorageError, match=disk.name):
        world.restore()
    assert (
        warnings_of(world.restore(wish=XmlWish(dxml=surroundings.XML.replace(str(disk), str(moved))))) == []
    )


@pytest.mark.parametrize("is_stale", [False, True])
def test_disk_that_only_qemu_may_read_is_told_by_its_time(world: World, disk: Path, is_stale: bool) -> None:
    """With a system daemon the engine's user may not open it: no reason to refuse its guest."""
    world.disk.plan("open", PermissionError(errno.EACCES, "Permission denied"), name=disk.name, nth=2)
    world.save()
    world.begin_anew()
    if is_stale:
        touch(disk)
        with pytest.raises(StaleDiskError):
            world.restore()
    else:
        (warning,) = warnings_of(world.restore())
        assert "cannot be read from here: opening: Permission denied" in warning


def test_disk_that_could_not_be_read_at_the_save_is_told_by_its_time(world: World, disk: Path) -> None:
    """The manifest says what is missing in it, and has the rest."""
    for number in range(2):
        world.disk.plan(
            "open", PermissionError(errno.EACCES, "Permission denied"), name=disk.name, nth=number
        )
    world.save()
    manifest = json.loads(world.final.with_name("new.save.manifest.json").read_text())
    assert manifest["disks"][0]["unreadable"] == "opening: Permission denied"

    assert warnings_of(world.restore()) == []
    touch(disk)
    world.hypervisor.domain = surroundings.replace(world.before, run_id=-1, state="shut off")
    with pytest.raises(StaleDiskError):
        world.restore()


def test_missing_disk_is_never_forced(world: World, disk: Path) -> None:
    """There is nothing to run on."""
    world.save()
    world.begin_anew()
    disk.unlink()

    with pytest.raises(StorageError, match="vda"):
        world.restore(force_stale_disks=True)

    assert world.hypervisor.moments == []


def test_simulated_guest_is_not_held_against_disks(world: World, disk: Path) -> None:
    """It has none, whatever its XML says; the outcome says that nobody looked."""
    world.hypervisor.is_simulated = True
    world.save()
    disk.unlink()

    (warning,) = warnings_of(world.restore())

    assert "simulated" in warning
