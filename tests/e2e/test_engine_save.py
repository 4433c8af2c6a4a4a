"""Save and restore of real guests by the engine alone, beside plain virsh."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import Guest, Sandbox
from engine.image.header import parse_header

pytestmark = pytest.mark.e2e


def test_saved_guest_goes_on_after_a_restore(running_guest: Guest, run_engine: Callable[..., Any]) -> None:
    """The counter in the guest's memory goes on; no page of the image stays in the cache either way."""
    host = running_guest.host
    image = host.store / "plain.save"

    saved = run_engine(host, op="save", domain=running_guest.name, to=str(image)).result
    before = running_guest.counter()
    assert running_guest.state() == "shut off"
    restored = run_engine(host, op="restore", path=str(image)).result

    assert running_guest.wait_counter_beyond(before) < before + 50
    running_guest.wait_memory_checked()
    assert running_guest.memory_ok()
    for result in (saved, restored):
        assert result["bypass_cache"]["resident_bytes"] == 0
        assert result["bypass_cache"]["direct"] is True
        assert result["bypass_cache"]["direct_bytes"] == result["bytes"] == image.stat().st_size
    assert restored["checksum"] == saved["checksum"]
    assert image.stat().st_mode & 0o777 == 0o600


def test_restore_point_holds_image_xml_and_manifest(
    running_guest: Guest, run_engine: Callable[..., Any]
) -> None:
    """Without a target the image becomes a restore point that shows itself only whole."""
    host = running_guest.host

    saved = run_engine(host, op="save", domain=running_guest.name, store=str(host.store)).result

    point = Path(saved["path"])
    assert point.parent == host.store / str(running_guest.spec.uuid)
    assert {path.name for path in point.iterdir()} == {"memory.save", "domain.xml", "manifest.json"}
    assert point.stat().st_mode & 0o777 == 0o700
    manifest = json.loads((point / "manifest.json").read_text())
    assert manifest["image_bytes"] == (point / "memory.save").stat().st_size
    assert manifest["checksum"]["value"] == saved["checksum"]["value"]
    assert not list((host.store / ".staging").iterdir())
    before = running_guest.counter()
    run_engine(host, op="restore", path=str(point))
    running_guest.wait_counter_beyond(before)


def test_virsh_restores_our_image(running_guest: Guest, run_engine: Callable[..., Any]) -> None:
    """Nobody is locked in: plain virsh restore takes what we wrote."""
    host = running_guest.host
    image = host.store / "ours.save"
    run_engine(host, op="save", domain=running_guest.name, to=str(image))
    before = running_guest.counter()

    host.virsh("restore", image)

    assert running_guest.wait_counter_beyond(before) < before + 50


def test_we_restore_an_image_of_virsh(running_guest: Guest, run_engine: Callable[..., Any]) -> None:
    """An image that virsh save --bypass-cache wrote runs again through our stream."""
    host = running_guest.host
    image = host.store / "theirs.save"
    host.virsh("save", running_guest.name, image, "--bypass-cache")
    before = running_guest.counter()

    restored = run_engine(host, op="restore", path=str(image)).result

    assert running_guest.wait_counter_beyond(before) < before + 50
    assert restored["bypass_cache"]["resident_bytes"] == 0


def test_policy_off_leaves_pages_in_the_cache(running_guest: Guest, run_engine: Callable[..., Any]) -> None:
    """The residency figure can be other than 0: with `off` it is the whole image."""
    host = running_guest.host
    image = host.store / "buffered.save"

    saved = run_engine(host, op="save", domain=running_guest.name, to=str(image), bypass_cache="off").result
    restored = run_engine(host, op="restore", path=str(image), bypass_cache="off").result

    for result in (saved, restored):
        assert result["bypass_cache"]["resident_bytes"] >= result["bytes"] * 0.9
        assert result["bypass_cache"]["direct"] is False
        assert result["bypass_cache"]["buffered_bytes"] == result["bytes"]


@pytest.mark.parametrize(
    ("flag", "was_running", "state"), [("paused", False, "paused"), ("running", True, "running")]
)
def test_flag_decides_whether_the_guest_runs_after_a_restore(
    running_guest: Guest, run_engine: Callable[..., Any], flag: str, was_running: bool, state: str
) -> None:
    """The header says what the flag said, so that plain virsh heeds it as well."""
    host = running_guest.host
    image = host.store / f"{flag}.save"
    run_engine(host, op="save", domain=running_guest.name, to=str(image), **{flag: True})

    assert parse_header(image.read_bytes()[:92], path="").was_running is was_running
    host.virsh("restore", image)

    assert running_guest.state() == state


def test_changed_dxml_takes_effect(running_guest: Guest, run_engine: Callable[..., Any]) -> None:
    """A host-specific change given at the save is in the image and in the restored domain."""
    host = running_guest.host
    image = host.store / "dxml.save"
    dxml = host.virsh("dumpxml", running_guest.name, "--migratable", "--security-info").replace(
        "<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>"
    )

    saved = run_engine(host, op="save", domain=running_guest.name, to=str(image), dxml=dxml).result
    run_engine(host, op="restore", path=str(image))

    assert "<on_crash>restart</on_crash>" in host.virsh("dumpxml", running_guest.name)
    assert {"xpath": "/domain/on_crash[1]/text()", "old": "destroy", "new": "restart"} in saved[
        "dxml_changes"
    ]


def test_managed_save_and_start(running_guest: Guest, run_engine: Callable[..., Any]) -> None:
    """The image libvirt keeps is synced and out of the cache by us; start takes it up."""
    host = running_guest.host

    saved = run_engine(host, op="managed-save", domain=running_guest.name).result
    before = running_guest.counter()
    assert running_guest.state() == "shut off"
    assert saved["bytes"] > 0
    assert saved["bypass_cache"]["resident_bytes"] == 0
    started = run_engine(host, op="start", domain=running_guest.name).result

    assert running_guest.wait_counter_beyond(before) < before + 50
    assert started["bypass_cache"]["resident_bytes"] == 0
    assert started["state"] == "running"


def test_damaged_managed_image_is_kept(running_guest: Guest, run_engine: Callable[..., Any]) -> None:
    """Where libvirt would delete it and boot in silence, we refuse until told to force it."""
    host = running_guest.host
    saved = run_engine(host, op="managed-save", domain=running_guest.name).result
    image = Path(saved["path"])
    with image.open("r+b") as file:
        file.write(b"LibvirtQemudPart")

    refused = run_engine(host, op="start", domain=running_guest.name)

    assert refused.error["code"] == 12
    assert "--force-boot" in refused.error["hint"]
    assert image.exists()
    assert running_guest.state() == "shut off"
    started = run_engine(host, op="start", domain=running_guest.name, force_boot=True).result
    assert started["state"] == "running"


def test_guest_moves_to_another_host(
    running_guest: Guest, sandbox: Sandbox, run_engine: Callable[..., Any]
) -> None:
    """An image saved on one host is restored on the other."""
    alpha, beta = sandbox.hosts["alpha"], sandbox.hosts["beta"]
    run_engine(alpha, op="save", domain=running_guest.name, to=str(alpha.store / "move.save"))
    before = running_guest.counter()
    moved = beta.store / "moved.save"
    moved.write_bytes((alpha.store / "move.save").read_bytes())
    moved.chmod(0o600)
    os.chown(moved, beta.uid, beta.uid)

    run_engine(beta, op="restore", path=str(moved))

    assert running_guest.wait_counter_beyond(before) < before + 50
    assert beta.guest(running_guest.spec).state() == "running"
