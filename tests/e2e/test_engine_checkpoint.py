"""Checkpoints of real guests: the guest goes on, the image goes on from where it was taken."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import DiskSpec, Guest, Sandbox
from engine.steps import Step

pytestmark = pytest.mark.e2e


def test_guest_goes_on_and_its_copy_goes_on_from_the_checkpoint(
    running_guest: Guest, folder: Path, run_engine: Callable[..., Any]
) -> None:
    """The guest goes on; an image restored later counts from the checkpoint, not from the end."""
    host = running_guest.host
    image = folder / "live.save"
    taken = run_engine(host, op="checkpoint", domain=running_guest.name, to=str(image)).result
    at_checkpoint = running_guest.counter()
    later = running_guest.wait_counter_beyond(at_checkpoint + 10)
    assert running_guest.state() == "running"
    host.virsh("destroy", running_guest.name)

    run_engine(host, op="restore", path=str(image))

    running_guest.wait_counting()
    counters = running_guest.counters()
    first_after = next(after for before, after in pairwise(counters) if after < before)
    # What was printed while the checkpoint was on its way may have been counted before its last instant.
    assert first_after <= at_checkpoint + 1 < later
    assert taken["bypass_cache"]["resident_bytes"] == 0
    assert taken["state"] == "running"
    assert 0 < taken["guest_paused_seconds"] < taken["duration_seconds"]


def test_checkpoint_of_a_domain_with_a_disk_says_so(
    sandbox: Sandbox, guest_factory: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """No disk is snapshotted: the memory alone is good only for the disks of that instant, as it says."""
    host = sandbox.hosts["alpha"]
    disk = folder / "disk.qcow2"
    host.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"])
    guest = guest_factory(disks=(DiskSpec(path=disk, driver="qcow2"),))
    guest.start()
    guest.wait_counting()

    taken = run_engine(host, op="checkpoint", domain=guest.name, store=str(folder / "store")).result

    manifest = json.loads((Path(taken["path"]) / "manifest.json").read_text())
    assert manifest["op"] == "checkpoint"
    assert manifest["disks_consistent"] is False
    (entry,) = manifest["disks"]
    assert (entry["target"], entry["path"], entry["format"]) == ("vda", str(disk), "qcow2")
    assert entry["size"] == disk.stat().st_size
    assert str(disk) in host.virsh("domblklist", guest.name)
    guest.wait_counting()


def test_pause_over_the_limit_gives_the_checkpoint_up(
    steady_guest: Guest, folder: Path, start_engine: Callable[..., Any]
) -> None:
    """The guest goes on, nothing is published, and the exit code says: try again."""
    host = steady_guest.host
    engine = start_engine(
        host,
        op="checkpoint",
        domain=steady_guest.name,
        to=str(folder / "slow.save"),
        max_pause_milliseconds=1,
        bandwidth=20 * 1024 * 1024,
    )

    assert engine.wait() == 75
    assert "stood still" in engine.error["message"]
    assert not list(folder.iterdir())
    steady_guest.wait_state("running", timeout=10)
    steady_guest.wait_counting()


@pytest.mark.parametrize(
    "step", [Step.CALL, Step.STREAM, "progress", Step.SYNCED, Step.PREPARED, Step.COMMITTED]
)
def test_killed_checkpoint_leaves_the_guest_running(
    steady_guest: Guest, folder: Path, start_engine: Callable[..., Any], step: str
) -> None:
    """A checkpoint never costs a guest, and one that was not published is not visible."""
    host = steady_guest.host
    engine = start_engine(
        host, op="checkpoint", domain=steady_guest.name, to=str(folder / "k.save"), hold_at=str(step)
    )
    engine.wait_for(str(step))

    engine.kill()

    steady_guest.wait_state("running", timeout=10)
    steady_guest.wait_counting()
    assert not (folder / "k.save").exists()
    assert not host.virsh("snapshot-list", steady_guest.name, "--name").strip()


def test_zstd_image_is_taken_by_us_and_by_virsh(
    running_guest: Guest, folder: Path, run_engine: Callable[..., Any]
) -> None:
    """Compressed on the way through, marked with libvirt's format code."""
    host = running_guest.host
    raw = run_engine(host, op="checkpoint", domain=running_guest.name, to=str(folder / "raw.save")).result
    image = folder / "packed.save"
    saved = run_engine(host, op="save", domain=running_guest.name, to=str(image), zstd_level=1).result
    assert saved["bytes"] < raw["bytes"]
    assert saved["bypass_cache"]["resident_bytes"] == 0

    before = running_guest.counter()
    run_engine(host, op="restore", path=str(image))
    running_guest.wait_counter_beyond(before)
    host.virsh("destroy", running_guest.name)
    if "11." in host.virsh("version"):
        host.virsh("restore", image)
        running_guest.wait_counting()
    running_guest.wait_memory_checked()
    assert running_guest.memory_ok()


def test_damaged_byte_never_runs(running_guest: Guest, folder: Path, run_engine: Callable[..., Any]) -> None:
    """Whatever byte of the memory is damaged, libvirt gets no guest out of it."""
    host = running_guest.host
    image = folder / "hurt.save"
    saved = run_engine(host, op="save", domain=running_guest.name, to=str(image)).result
    for offset in (saved["bytes"] // 3, saved["bytes"] // 2, saved["bytes"] - 1):
        with image.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 0x10]))

        refused = run_engine(host, op="restore", path=str(image))

        assert refused.error["code"] == 13
        assert f"part {offset // (64 * 1024 * 1024)}" in refused.error["message"]
        assert running_guest.state() == "shut off"
        with image.open("r+b") as file:
            file.seek(offset)
            file.write(byte)
    before = running_guest.counter()
    run_engine(host, op="restore", path=str(image))
    running_guest.wait_counter_beyond(before)


@pytest.mark.parametrize(
    "fields", [{}, {"image_format": "sparse"}, {"image_format": "sparse", "channels": 2}]
)
def test_native_path_saves_and_restores(
    running_guest: Guest, folder: Path, run_engine: Callable[..., Any], fields: dict[str, Any]
) -> None:
    """With libvirt's own I/O, and our staging, sync, checksum and residency check around it."""
    host = running_guest.host
    image = folder / "native.save"

    saved = run_engine(
        host, op="save", domain=running_guest.name, to=str(image), data_path="native", **fields
    ).result
    before = running_guest.counter()
    restored = run_engine(host, op="restore", path=str(image), data_path="native").result

    running_guest.wait_counter_beyond(before)
    assert saved["data_path"] == restored["data_path"] == "native"
    assert saved["bypass_cache"]["resident_bytes"] == restored["bypass_cache"]["resident_bytes"] == 0
    assert saved["checksum"]["value"]


def test_core_dump_leaves_the_guest_running(
    steady_guest: Guest, folder: Path, run_engine: Callable[..., Any]
) -> None:
    """An ELF core of the guest's memory, past the page cache."""
    host = steady_guest.host
    core = folder / "guest.core"

    dumped = run_engine(host, op="dump", domain=steady_guest.name, to=str(core), dump_flags=16).result

    with core.open("rb") as file:
        assert file.read(4) == b"\x7fELF"
    assert dumped["bytes"] == core.stat().st_size > steady_guest.spec.memory_mib * 1024 * 1024
    assert dumped["bypass_cache"]["resident_bytes"] == 0 or dumped["bypass_cache"]["direct"]
    steady_guest.wait_counting()
