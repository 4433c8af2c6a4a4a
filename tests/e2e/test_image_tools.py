"""The image tools on images that libvirt wrote and libvirt reads: no daemon is asked, and virsh agrees."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import Guest, Host
from engine.image.header import ImageFormat

pytestmark = pytest.mark.e2e

#: What libvirt writes with nothing else installed; bzip2, xz and zstd were tried by hand and are slow.
FORMATS = ("raw", "gzip", "sparse")


def image(host: Host, *arguments: str | Path) -> Any:
    """Run `fleetsave image ... --json` as the host's user; return its document."""
    done = host.fleetsave("image", *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_of_libvirt(running_guest: Guest, folder: Path, image_format: str) -> None:
    """Described, verified, given another XML; virsh reads that XML, and the guest goes on counting."""
    host, path = running_guest.host, folder / f"{image_format}.save"
    host.virsh("save", running_guest.name, path, "--image-format", image_format, timeout=240)
    before = running_guest.counter()

    info = image(host, "info", path)
    assert (info["format"], info["format_code"]) == (image_format, ImageFormat[image_format.upper()])
    assert (info["domain"], info["is_complete"], info["was_running"]) == (running_guest.name, True, True)
    assert image(host, "verify", path)["is_compared"] is False
    xml = image(host, "dumpxml", path, "--security-info")["xml"]
    new = folder / "new.xml"
    new.write_text(xml.replace("<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>"))
    new.chmod(0o644)
    defined = image(host, "define", path, new)

    assert defined["dxml_changes"] == [
        {"xpath": "/domain/on_crash[1]/text()", "old": "destroy", "new": "restart"}
    ]
    assert "<on_crash>restart</on_crash>" in host.virsh("save-image-dumpxml", path)
    host.virsh("restore", path, timeout=240)
    assert running_guest.wait_counter_beyond(before) < before + 50
    assert "<on_crash>restart</on_crash>" in host.virsh("dumpxml", running_guest.name)


def test_xml_that_libvirt_would_refuse_as_too_large(running_guest: Guest, folder: Path) -> None:
    """The memory moves to make room, and libvirt restores the image all the same."""
    host, path = running_guest.host, folder / "large.save"
    host.virsh("save", running_guest.name, path)
    before = running_guest.counter()
    xml = image(host, "dumpxml", path, "--security-info")["xml"]
    new = folder / "new.xml"
    new.write_text(xml.replace("</name>", f"</name><description>{'y' * 100_000}</description>", 1))
    new.chmod(0o644)
    refused = host.run(["virsh", "save-image-define", path, new], check=False)
    assert "new xml too large to fit in file" in refused.stderr

    defined = image(host, "define", path, new)

    assert defined["moved_bytes"] > 0
    host.virsh("restore", path)
    assert running_guest.wait_counter_beyond(before) < before + 50
    assert "y" * 100_000 in host.virsh("dumpxml", running_guest.name)


def test_restore_point_of_ours(running_guest: Guest, folder: Path) -> None:
    """A point of the store, defined to be paused, still verifies, and restores to a paused guest."""
    host = running_guest.host
    saved = json.loads(
        host.fleetsave("save", running_guest.name, "--local", "--store", folder, "--json").stdout
    )
    point = Path(saved["path"])
    assert image(host, "verify", point)["is_compared"] is True

    assert image(host, "define", point, "--paused")["was_running"] is False

    verified = image(host, "verify", point)
    assert (verified["is_compared"], verified["bypass_cache"]["resident_bytes"]) == (True, 0)
    assert {path.name for path in point.iterdir()} == {"memory.save", "domain.xml", "manifest.json"}
    restored = host.fleetsave("restore", point, "--local", "--json")
    assert restored.returncode == 0, restored.stderr
    assert running_guest.state() == "paused"


def test_damage_is_named_and_nothing_restores_it(running_guest: Guest, folder: Path) -> None:
    """One bit in the memory: verify exits with 13 and the part's bytes, define and restore refuse."""
    host = running_guest.host
    saved = host.fleetsave("save", running_guest.name, "--local", "--to", folder / "a.save", "--json")
    path = Path(json.loads(saved.stdout)["path"])
    with path.open("r+b") as file:
        file.seek(10_000_000)
        byte = file.read(1)[0]
        file.seek(10_000_000)
        file.write(bytes([byte ^ 1]))

    verified = host.fleetsave("image", "verify", path, "--json")
    restored = host.fleetsave("restore", path, "--local", "--json")
    defined = host.fleetsave("image", "define", path, "--paused", "--json")

    error = json.loads(verified.stdout)["error"]
    assert verified.returncode == error["code"] == 13
    (damaged,) = error["fields"]["damaged_parts"]
    assert damaged["number"] == 0
    assert damaged["start"] <= 10_000_000 < damaged["end"]
    assert (restored.returncode, defined.returncode) == (13, 13)
    assert running_guest.state() == "shut off"


def test_unfinished_image_says_so_in_every_tool(running_guest: Guest, folder: Path) -> None:
    """Exit code 12, and `info` describes it nevertheless."""
    host, path = running_guest.host, folder / "a.save"
    host.virsh("save", running_guest.name, path)
    with path.open("r+b") as file:
        file.write(b"LibvirtQemudPart")

    info = host.fleetsave("image", "info", path, "--json")
    codes = [
        host.fleetsave("image", *words).returncode
        for words in (("dumpxml", path), ("verify", path), ("define", path, "--paused"))
    ]

    assert info.returncode == 12
    assert json.loads(info.stdout)["magic"] == "LibvirtQemudPart"
    assert codes == [12, 12, 12]
