"""Restores of real guests with disks: they go over the disks of the save, and are refused over others."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import DiskSpec, Guest, Host, Sandbox
from engine.steps import Step
from tests.data.file_systems import run

pytestmark = pytest.mark.e2e

SIZE = "16M"
RECOVER = """
import engine, sys
engine.recover("qemu:///session", runtime_dir=sys.argv[1], directories=sys.argv[2:])
"""


def make_disk(host: Host, path: Path, *, driver: str) -> Path:
    """Make an empty disk of the host's user."""
    host.run(["qemu-img", "create", "-q", "-f", driver, path, SIZE])
    return path


def checksum(path: Path) -> str:
    """Return what tells one content of a disk from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_written(guest: Guest) -> None:
    """Wait until the guest has written its disk once more."""
    guest.wait_counter_beyond(guest.counter() + 1)


@pytest.fixture
def make_guest(guest_factory: Callable[..., Guest], folder: Path) -> Callable[..., Guest]:
    """Give a function that starts a guest which writes its first disk; its disks are of the given formats."""

    def make(*drivers: str, writes_disk: bool = True, with_bitmap: bool = False) -> Guest:
        guest = guest_factory(
            disks=tuple(
                DiskSpec(path=folder / f"disk{number}.{driver}", driver=driver, target=f"vd{'ab'[number]}")
                for number, driver in enumerate(drivers)
            ),
            writes_disk=writes_disk,
        )
        for disk in guest.spec.disks:
            make_disk(guest.host, disk.path, driver=disk.driver)
            if with_bitmap and disk.driver == "qcow2":
                guest.host.run(["qemu-img", "bitmap", "--add", disk.path, "since-backup"])
        guest.start()
        guest.wait_counter_beyond(2)
        return guest

    return make


@pytest.fixture
def device(sandbox: Sandbox, folder: Path) -> Iterator[Path]:
    """Give alpha's user a block device."""
    file = folder / "device.img"
    file.touch()
    os.truncate(file, 16 * 1024 * 1024)
    path = Path(run("losetup", "--show", "--find", file))
    owner = path.stat().st_uid
    os.chown(path, sandbox.hosts["alpha"].uid, -1)
    yield path
    os.chown(path, owner, -1)
    run("losetup", "--detach", path)


@pytest.mark.parametrize("data_path", ["stream", "native"])
@pytest.mark.parametrize("drivers", [("raw", "qcow2"), ("qcow2", "raw")])
def test_saved_guest_goes_on_over_its_own_disks(
    make_guest: Callable[..., Guest],
    folder: Path,
    run_engine: Callable[..., Any],
    drivers: tuple[str, str],
    data_path: str,
) -> None:
    """Again and again, written until the last instant: QEMU changes nothing once the disks were noted."""
    guest = make_guest(*drivers, with_bitmap=True)
    for number in range(3):
        image = folder / f"{number}.save"
        run_engine(guest.host, op="save", domain=guest.name, to=str(image), data_path=data_path)
        before = guest.counter()

        restored = run_engine(guest.host, op="restore", path=str(image)).result

        assert restored["warnings"] == []
        guest.wait_counter_beyond(before + 2)
        wait_written(guest)


def test_older_image_over_written_disks_is_refused(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """The guest ran on and wrote: its older memory starts nothing, unless somebody insists."""
    guest = make_guest("raw", "qcow2")
    host, disk, image = guest.host, guest.spec.disks[0].path, folder / "old.save"
    run_engine(host, op="save", domain=guest.name, to=str(image))
    run_engine(host, op="restore", path=str(image))
    wait_written(guest)
    host.virsh("destroy", guest.name)
    before = checksum(disk)

    refused = run_engine(host, op="restore", path=str(image))

    assert refused.error["class"] == "StaleDiskError"
    assert refused.error["code"] == refused.wait() == 33
    assert re.search(rf"disk vda \({disk}\) was written since .*Z, then .*Z\)", refused.error["message"])
    assert "vdb" not in refused.error["message"]
    assert "--force-stale-disks" in refused.error["hint"]
    assert Step.PREFLIGHT not in refused.steps
    assert guest.state() == "shut off"
    assert checksum(disk) == before

    forced = run_engine(host, op="restore", path=str(image), force_stale_disks=True).result

    assert [warning.startswith("forced: disk vda") for warning in forced["warnings"]] == [True]
    guest.wait_counting()


def test_command_line_refuses_and_forces(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """The option and the exit code as an operator meets them; the warning goes to stderr."""
    guest = make_guest("qcow2")
    host, image = guest.host, folder / "old.save"
    run_engine(host, op="checkpoint", domain=guest.name, to=str(image))
    wait_written(guest)
    host.virsh("destroy", guest.name)

    refused = host.fleetsave("restore", image, "--local")
    forced = host.fleetsave("restore", image, "--local", "--force-stale-disks")

    assert (refused.returncode, forced.returncode) == (33, 0)
    assert "--force-stale-disks" in refused.stderr
    assert "forced: disk vda" in forced.stderr
    guest.wait_counting()


def test_checkpoint_of_a_guest_that_wrote_on_is_refused(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """Its memory is that of an earlier instant than its disks."""
    guest = make_guest("qcow2", "raw")
    host, store = guest.host, folder / "store"
    taken = run_engine(host, op="checkpoint", domain=guest.name, store=str(store)).result
    wait_written(guest)
    host.virsh("destroy", guest.name)

    refused = run_engine(host, op="restore", path=taken["path"])

    assert refused.error["code"] == 33
    assert guest.state() == "shut off"


def test_checkpoint_of_a_guest_that_wrote_nothing_goes_on(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """Disks that nobody wrote are those that the memory knows, whatever the operation was."""
    guest = make_guest("raw", "qcow2", writes_disk=False)
    host, image = guest.host, folder / "live.save"
    run_engine(host, op="checkpoint", domain=guest.name, to=str(image))
    guest.wait_counting()
    host.virsh("destroy", guest.name)

    assert run_engine(host, op="restore", path=str(image)).result["warnings"] == []
    guest.wait_counting()


def test_image_that_recovery_published_goes_on(
    make_guest: Callable[..., Guest],
    folder: Path,
    start_engine: Callable[..., Any],
    run_engine: Callable[..., Any],
) -> None:
    """What was noted before the commit is what QEMU left: nobody notes it again after a death."""
    guest = make_guest("qcow2", "raw", with_bitmap=True)
    host, image = guest.host, folder / "recovered.save"
    engine = start_engine(host, op="save", domain=guest.name, to=str(image), hold_at=Step.COMMITTED.value)
    engine.wait_for(Step.COMMITTED.value)
    engine.kill()
    assert not image.exists()
    host.run([*host.python, "-c", RECOVER, host.runtime_dir / "fleetsave", folder])
    before = guest.counter()

    restored = run_engine(host, op="restore", path=str(image)).result

    assert restored["warnings"] == []
    guest.wait_counter_beyond(before)


def test_image_of_virsh_goes_on_until_its_disks_are_newer(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """Without a manifest the image's own age is what its disks are held against."""
    guest = make_guest("qcow2", "raw")
    host, disk, image = guest.host, guest.spec.disks[0].path, folder / "theirs.save"
    host.virsh("save", guest.name, image, "--bypass-cache")
    assert run_engine(host, op="restore", path=str(image)).result["warnings"] == []
    guest.wait_counting()
    host.virsh("destroy", guest.name)
    late = image.stat().st_mtime_ns + 3600 * 10**9
    os.utime(disk, ns=(late, late))

    refused = run_engine(host, op="restore", path=str(image))

    assert refused.error["code"] == 33
    assert "vda" in refused.error["message"]


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_block_device_is_held_to_what_the_kernel_counted(
    guest_factory: Callable[..., Guest],
    device: Path,
    folder: Path,
    run_engine: Callable[..., Any],
    cache: str,
) -> None:
    """Its own guest's last writes are those of the save; the next ones make the image stale."""
    disk = (
        f"<disk type='block' device='disk'><driver name='qemu' type='raw' cache='{cache}'/>"
        f"<source dev='{device}'/><target dev='vda' bus='virtio'/></disk>"
    )
    guest = guest_factory(devices=disk, writes_disk=True)
    host, image = guest.host, folder / "a.save"
    guest.start()
    guest.wait_counter_beyond(2)
    run_engine(host, op="save", domain=guest.name, to=str(image))
    assert run_engine(host, op="restore", path=str(image)).result["warnings"] == []
    guest.wait_counting()
    wait_written(guest)
    host.virsh("destroy", guest.name)

    refused = run_engine(host, op="restore", path=str(image))

    assert refused.error["code"] == 33
    assert re.search(rf"disk vda \({device}\) was written since \(\d+ sectors\)", refused.error["message"])


def test_missing_or_closed_disk_is_refused_whatever_is_forced(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """20: named with its target and its path; nothing is started."""
    guest = make_guest("raw")
    host, disk, image = guest.host, guest.spec.disks[0].path, folder / "a.save"
    run_engine(host, op="save", domain=guest.name, to=str(image))
    away = disk.rename(disk.with_suffix(".away"))

    refused = run_engine(host, op="restore", path=str(image), force_stale_disks=True)

    assert refused.error["code"] == 20
    assert "vda" in refused.error["message"]
    assert str(disk) in refused.error["message"]
    assert guest.state() == "shut off"
    away.rename(disk)
    disk.chmod(0o400)
    closed = run_engine(host, op="restore", path=str(image), force_stale_disks=True)
    assert closed.error["code"] == 20
    assert f"{disk} may not be written by this user" in closed.error["message"]
    disk.chmod(0o600)
    assert run_engine(host, op="restore", path=str(image)).result["state"] == "running"


def test_disk_in_a_directory_that_may_not_be_searched_is_refused(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """20: the directory is named."""
    guest = make_guest("raw")
    host, disk, image = guest.host, guest.spec.disks[0].path, folder / "a.save"
    run_engine(host, op="save", domain=guest.name, to=str(image))
    closed = folder / "closed"
    host.run(["mkdir", closed])
    host.run(["mv", disk, closed])
    xml = host.virsh("dumpxml", guest.name, "--migratable", "--security-info", "--inactive")
    dxml = xml.replace(str(disk), str(closed / disk.name))
    closed.chmod(0)

    refused = run_engine(host, op="restore", path=str(image), dxml=dxml)

    assert refused.error["code"] == 20
    assert f"{closed} may not be searched" in refused.error["message"]
    assert guest.state() == "shut off"
    closed.chmod(0o700)
    assert run_engine(host, op="restore", path=str(image), dxml=dxml).result["state"] == "running"


def test_copies_with_their_times_go_on_elsewhere(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """With cp -p it is the same disk at another path; after a plain cp nobody can tell."""
    guest = make_guest("raw", "qcow2")
    host, image = guest.host, folder / "a.save"
    run_engine(host, op="save", domain=guest.name, to=str(image))
    xml = host.virsh("dumpxml", guest.name, "--migratable", "--security-info", "--inactive")
    copies = {}
    for way, options in (("kept", ["-p"]), ("lost", [])):
        copies[way] = xml
        for disk in guest.spec.disks:
            copy = disk.path.with_name(f"{way}-{disk.path.name}")
            host.run(["cp", *options, disk.path, copy])
            copies[way] = copies[way].replace(str(disk.path), str(copy))

    refused = run_engine(host, op="restore", path=str(image), dxml=copies["lost"])

    assert refused.error["code"] == 33
    assert "cp -p" in refused.error["hint"]
    assert {"vda", "vdb"} <= set(re.findall(r"vd.", refused.error["message"]))
    assert run_engine(host, op="restore", path=str(image), dxml=copies["kept"]).result["warnings"] == []
    guest.wait_counting()


def test_manifest_says_what_the_disks_were(
    make_guest: Callable[..., Guest], folder: Path, run_engine: Callable[..., Any]
) -> None:
    """After the end of the guest, bitmaps of a qcow2 included."""
    guest = make_guest("qcow2", with_bitmap=True)
    host, disk = guest.host, guest.spec.disks[0].path
    run_engine(host, op="save", domain=guest.name, to=str(folder / "a.save"))

    manifest = json.loads((folder / "a.save.manifest.json").read_text())

    (entry,) = manifest["disks"]
    state = disk.stat()
    assert (entry["size"], entry["mtime_ns"], entry["inode"]) == (
        state.st_size,
        state.st_mtime_ns,
        state.st_ino,
    )
    assert entry["qcow2"]["virtual_size"] == 16 * 1024 * 1024
    assert [bitmap["name"] for bitmap in entry["qcow2"]["bitmap_list"]] == ["since-backup"]
    assert manifest["disks_consistent"] is True
