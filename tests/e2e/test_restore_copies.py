"""Guests restored by rules and under other names, on this host and on another, beside their originals."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from cli.sandbox import DiskSpec, Guest, Host, Sandbox

pytestmark = pytest.mark.e2e

SIZE = "16M"


def copy_of(guest: Guest, outcome: dict[str, Any], serial: Path) -> Guest:
    """Return the guest that a restore has made of another's image."""
    spec = replace(guest.spec, name=outcome["domain"], uuid=UUID(outcome["domain_uuid"]))
    return replace(guest, spec=spec, serial=serial)


def last_written(guest: Guest, disk: Path) -> int:
    """Return the number that the guest wrote to its disk last."""
    raw = disk.with_suffix(f".{uuid4().hex[:8]}.first")
    guest.host.run(
        ["qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=512", "count=1", f"if={disk}", f"of={raw}"]
    )
    found = re.match(rb"counter (\d+)", raw.read_bytes())
    return int(found[1]) if found else 0


@pytest.fixture
def remove_copies(sandbox: Sandbox) -> Iterator[None]:
    """End the copies that a test left running."""
    yield
    for host in sandbox.hosts.values():
        for name in host.domain_names():
            if name.startswith("copy-"):
                host.virsh("destroy", name)


@pytest.fixture
def serial_of_copy(folder: Path) -> Path:
    """Give the file that the copy prints to; the original keeps its own."""
    return folder / "copy.log"


@pytest.fixture
def rules(serial_of_copy: Path) -> str:
    """Give rules that lead the serial line elsewhere."""
    return f'[[serial]]\nset = {{ type = "file", path = "{serial_of_copy}", append = true }}\n'


@pytest.fixture
def disk_guest(guest_factory: Callable[..., Guest], folder: Path) -> Guest:
    """Give a running guest that writes its counter to a qcow2 disk."""
    guest = guest_factory(disks=(DiskSpec(path=folder / "original.qcow2", driver="qcow2"),), writes_disk=True)
    guest.host.run(["qemu-img", "create", "-q", "-f", "qcow2", guest.spec.disks[0].path, SIZE])
    guest.start()
    guest.wait_counter_beyond(2)
    return guest


@pytest.mark.usefixtures("remove_copies")
@pytest.mark.parametrize("kind", ["stream", "zstd", "native"])
def test_copy_runs_beside_its_original(
    running_guest: Guest,
    folder: Path,
    *,
    rules: str,
    serial_of_copy: Path,
    run_engine: Callable[..., Any],
    kind: str,
) -> None:
    """From a checkpoint: the original counts on, the copy goes on from where that was taken."""
    host, image = running_guest.host, folder / "a.save"
    taken = run_engine(
        host,
        op="checkpoint",
        domain=running_guest.name,
        to=str(image),
        zstd_level=1 if kind == "zstd" else None,
    ).result
    at_least = running_guest.counters()
    before = image.read_bytes()

    done = run_engine(
        host, op="restore", path=str(image), new_name="copy-1", rules=rules,
        data_path="native" if kind == "native" else "stream",
    ).result  # fmt: skip

    copy = copy_of(running_guest, done, serial_of_copy)
    assert (done["domain"], done["state"]) == ("copy-1", "running")
    assert done["domain_uuid"] != str(running_guest.spec.uuid)
    assert done["bypass_cache"]["resident_bytes"] == 0
    assert "copy-1" in {change["new"] for change in done["dxml_changes"]}
    copy.wait_counting()
    assert at_least[0] < copy.counters()[0] <= running_guest.counter() + 1
    running_guest.wait_counting()
    assert image.read_bytes() == before
    assert taken["checksum"] == done["checksum"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.save", "a.save.manifest.json", "copy.log"]


@pytest.mark.usefixtures("remove_copies")
def test_sparse_image_is_copied_for_the_copy(
    running_guest: Guest, folder: Path, rules: str, serial_of_copy: Path, run_engine: Callable[..., Any]
) -> None:
    """Libvirt reads such an image by itself: it is given another with the new name, gone afterwards."""
    host, image = running_guest.host, folder / "a.save"
    run_engine(
        host, op="save", domain=running_guest.name, to=str(image), data_path="native", image_format="sparse"
    )
    before, saved_at = image.read_bytes(), running_guest.counter()

    done = run_engine(host, op="restore", path=str(image), new_name="copy-2", rules=rules).result

    copy_of(running_guest, done, serial_of_copy).wait_counter_beyond(saved_at)
    assert image.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["a.save", "a.save.manifest.json", "copy.log"]


@pytest.mark.usefixtures("remove_copies")
def test_copy_needs_disks_of_its_own(
    disk_guest: Guest, folder: Path, rules: str, serial_of_copy: Path, run_engine: Callable[..., Any]
) -> None:
    """Two guests on one disk destroy it: refused with 20, also by another way to it; on a copy both go on."""
    host, image, disk = disk_guest.host, folder / "a.save", disk_guest.spec.disks[0].path
    run_engine(host, op="save", domain=disk_guest.name, to=str(image))
    saved_at = disk_guest.counter()
    link = folder / "link.qcow2"
    host.run(["ln", disk, link])
    host.run(["cp", "-p", disk, folder / "copied.qcow2"])

    def moved_to(path: Path) -> str:
        return f'{rules}[[disk]]\nsource = {{ exact = "{disk}", replace = "{path}" }}\n'

    for same in (disk, link):
        wish = rules if same == disk else moved_to(same)
        refused = run_engine(host, op="restore", path=str(image), new_name="copy-3", rules=wish)
        assert refused.error["code"] == 20
        assert "the original's" in refused.error["message"]
        assert "copy-3" not in host.domain_names()

    run_engine(host, op="restore", path=str(image))
    disk_guest.wait_counter_beyond(saved_at)
    copied = folder / "copied.qcow2"
    done = run_engine(host, op="restore", path=str(image), new_name="copy-3", rules=moved_to(copied)).result
    copy = copy_of(disk_guest, done, serial_of_copy)
    copy.wait_counter_beyond(saved_at + 3)
    assert last_written(copy, copied) > saved_at
    disk_guest.wait_counting()


def test_guest_moves_to_another_host_by_rules(
    disk_guest: Guest, folder: Path, sandbox: Sandbox, run_engine: Callable[..., Any]
) -> None:
    """Its disk lies under another path there; the counter goes on, and the guest can write to its disk."""
    alpha, beta = sandbox.hosts["alpha"], sandbox.hosts["beta"]
    disk, image = disk_guest.spec.disks[0].path, folder / "a.save"
    run_engine(alpha, op="save", domain=disk_guest.name, to=str(image))
    saved_at = disk_guest.counter()
    place = beta.store.parent / f"moved-{uuid4().hex[:8]}"
    place.mkdir(mode=0o700)
    for path in (image, Path(f"{image}.manifest.json"), disk):
        _hand_over(path, place / path.name, beta)
    os.chown(place, beta.uid, beta.uid)
    wish = f'[[disk]]\nsource = {{ prefix = "{folder}/", replace = "{place}/" }}\n'

    unmoved = run_engine(beta, op="restore", path=str(place / image.name))
    done = run_engine(beta, op="restore", path=str(place / image.name), rules=wish).result

    assert unmoved.error["code"] == 20
    assert [(change["old"], change["new"]) for change in done["dxml_changes"]] == [
        (str(disk), str(place / disk.name))
    ]
    there = beta.guest(disk_guest.spec)
    there.wait_counter_beyond(saved_at + 3)
    assert last_written(there, place / disk.name) > saved_at
    there.remove()


def _hand_over(path: Path, target: Path, host: Host) -> None:
    """Copy a file, with its times, for another host's user."""
    target.write_bytes(path.read_bytes())
    state = path.stat()
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))
    os.chown(target, host.uid, host.uid)


def test_save_by_rules_is_restored_by_them(
    running_guest: Guest, folder: Path, rules: str, serial_of_copy: Path, run_engine: Callable[..., Any]
) -> None:
    """What a save was told is in its image, its manifest and its outcome; plain virsh restores it so."""
    host, image = running_guest.host, folder / "a.save"

    saved = run_engine(host, op="save", domain=running_guest.name, to=str(image), rules=rules).result

    saved_at = running_guest.counter()
    assert {change["new"] for change in saved["dxml_changes"]} >= {str(serial_of_copy)}
    host.virsh("restore", str(image))
    replace(running_guest, serial=serial_of_copy).wait_counter_beyond(saved_at)


def test_rule_that_matches_nothing_stops_a_save_before_the_guest(
    running_guest: Guest, folder: Path, run_engine: Callable[..., Any]
) -> None:
    """10; the guest was not paused for a moment."""
    wish = '[[disk]]\nsource = { prefix = "/nowhere/", replace = "/srv/" }\n'

    failed = run_engine(
        running_guest.host, op="save", domain=running_guest.name, to=str(folder / "a.save"), rules=wish
    )

    assert failed.error["code"] == 10
    assert "disk" in failed.error["message"]
    assert running_guest.state() == "running"
    assert not list(folder.iterdir())
