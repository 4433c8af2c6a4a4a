"""A guest that this host cannot run is refused with the whole list before anything starts; others pass."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import Guest, Host
from engine.domxml.offer import parse_host_capabilities
from engine.domxml.requirements import parse_requirements
from tests.data.image_files import patch_head

pytestmark = pytest.mark.e2e

#: Prints what a host publishes of itself.
PROBE = "import json, sys, engine; print(json.dumps(engine.host_capabilities(sys.argv[1]).to_dict()))"


def copy_with(host: Host, image: Path, name: str, *changes: tuple[str, str]) -> Path:
    """Return a copy of an image whose head says something else, of the same length."""
    path = image.with_name(name)
    path.write_bytes(patch_head(image.read_bytes(), *changes))
    path.chmod(0o600)
    os.chown(path, host.uid, host.uid)
    return path


def test_restore_is_refused_with_all_that_is_missing(
    running_guest: Guest, folder: Path, run_engine: Callable[..., Any]
) -> None:
    """Machine type and processor feature at once; nothing was started; the image as it was still restores."""
    host, image = running_guest.host, folder / "plain.save"
    host.virsh("save", running_guest.name, image)
    before = running_guest.counter()
    other = copy_with(
        host, image, "other.save", ("pc-i440fx-10.0", "pc-i440fx-99.0"), ("'lahf_lm'", "'avx512f'")
    )

    refused = run_engine(host, op="restore", path=str(other))

    assert refused.error["code"] == 34
    assert "machine type pc-i440fx-99.0 (QEMU 10.0" in refused.error["message"]
    assert "CPU features avx512f" in refused.error["message"]
    assert refused.steps == [], "not even the preflight was passed"
    assert running_guest.state() == "shut off"
    restored = run_engine(host, op="restore", path=str(image)).result
    assert restored["warnings"] == []
    assert running_guest.wait_counter_beyond(before) < before + 50


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("'lahf_lm'", "'avx512f'"), "CPU features avx512f"),
        (("type='qemu'>\n  <name>", "type='kvm' >\n  <name>"), "virt type kvm for x86_64"),
        (("qemu-system-x86_64<", "qemu-system-nosuch<"), "emulator /usr/bin/qemu-system-nosuch"),
        ((">qemu64</model>\n    <feature", ">Nosuch</model>\n    <feature"), "CPU model Nosuch"),
        (("<input type='mouse' bus='ps2'/>", "<graphics type='spice'/>       "), "graphics spice"),
    ],
)
def test_what_libvirt_would_refuse_is_refused_before(
    running_guest: Guest,
    folder: Path,
    run_engine: Callable[..., Any],
    change: tuple[str, str],
    wanted: str,
) -> None:
    """Plain virsh fails on the same image, after it has set out to start the guest."""
    host, image = running_guest.host, folder / "plain.save"
    host.virsh("save", running_guest.name, image)
    other = copy_with(host, image, "other.save", change)

    refused = run_engine(host, op="restore", path=str(other))

    assert refused.error["code"] == 34
    assert wanted in refused.error["message"]
    assert host.run(["virsh", "-c", host.uri, "restore", other], check=False).returncode == 1
    assert running_guest.state() == "shut off"


@pytest.mark.parametrize("cpu", ["<cpu mode='host-model'/>", "<cpu mode='maximum'/>", "qemu64-q35", ""])
def test_guests_of_this_host_are_taken_back(
    guest_factory: Callable[..., Guest], run_engine: Callable[..., Any], cpu: str
) -> None:
    """Whatever processor they have: what libvirt takes is never refused, and says nothing of doubts."""
    guest = guest_factory(machine="q35")
    host = guest.host
    if cpu != "qemu64-q35":
        begin, end = guest.xml.index("<cpu"), guest.xml.index("</cpu>") + len("</cpu>")
        file = guest.host.store / f"{guest.name}.xml"
        file.write_text(guest.xml[:begin] + cpu + guest.xml[end:])
        file.chmod(0o644)
        host.virsh("define", file)
    guest.start()
    guest.wait_counting()
    saved = run_engine(host, op="save", domain=guest.name, to=str(host.store / f"{guest.name}.save")).result
    before = guest.counter()

    restored = run_engine(host, op="restore", path=saved["path"]).result

    assert restored["warnings"] == []
    guest.wait_counter_beyond(before)
    assert parse_requirements(saved["requirements"]).machine == "pc-q35-10.0"


def test_host_publishes_what_its_session_daemon_can_run(running_guest: Guest) -> None:
    """From a daemon of an unprivileged user: emulated guests only, in a document of bounded size."""
    host = running_guest.host
    text = host.run([*host.python, "-c", PROBE, host.uri]).stdout

    found = parse_host_capabilities(json.loads(text))
    platform = found.platform("x86_64", "qemu")
    assert platform is not None
    assert len(text) < 256 * 1024
    assert found.is_complete
    assert found.platforms[0].architecture == found.cpu.architecture == "x86_64"
    assert {"pc-i440fx-10.0", "pc-q35-10.0"} <= set(platform.machines)
    assert {profile.family for profile in platform.profiles} == {"pc-i440fx", "pc-q35"}
    assert platform.cpu_models["qemu64"] == ()
    assert platform.cpu_features is not None
    assert "avx512f" not in platform.cpu_features
    assert found.hypervisor_version.startswith("10.0")
