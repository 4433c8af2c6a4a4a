"""Rewritten domain XML is what libvirt takes: every rule, a copy beside its original, a saved guest."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from lxml import etree

from cli.sandbox import Guest, Host, Sandbox

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "dxml"


@pytest.fixture
def alpha(sandbox: Sandbox) -> Host:
    """Give a host."""
    return sandbox.hosts["alpha"]


@pytest.fixture
def original(alpha: Host, folder: Path) -> Iterator[Path]:
    """Give the domain XML of the examples, as this host's libvirt prints it once it is defined."""
    name = f"web-{uuid4().hex[:8]}"
    text = (EXAMPLES / "web-1.xml").read_text().replace("web-1", name)
    # What this machine's QEMU and libvirt need not have; the copy has a UUID of its own.
    text = text.replace("0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d", str(uuid4()))
    text = text.replace("type='kvm'", "type='qemu'").replace("<cpu mode='host-passthrough'/>", "")
    path = write(folder / "original.xml", text)
    alpha.virsh("define", path)
    yield write(path, alpha.virsh("dumpxml", "--inactive", "--security-info", name))
    alpha.virsh("undefine", "--nvram", name)


def write(path: Path, text: str) -> Path:
    """Write a file that the host's user can read."""
    path.write_text(text)
    path.chmod(0o644)
    return path


def rewrite(host: Host, xml: Path, *words: str | Path) -> str:
    """Run the command as the host's user; return the new XML."""
    done = host.fleetsave("dxml", "rewrite", xml, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dump(host: Host, name: str) -> etree._Element:
    """Return what libvirt made of a definition."""
    return etree.fromstring(host.virsh("dumpxml", "--inactive", "--security-info", name))


@pytest.mark.parametrize("rules", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_taken_and_kept(alpha: Host, original: Path, folder: Path, rules: Path) -> None:
    """Libvirt validates it against its schema, and prints each new value as it was asked for."""
    name = etree.parse(original).findtext("name")
    assert name is not None
    # libvirt looks for the emulator when it defines a domain.
    (folder / "qemu-system-x86_64").symlink_to("/usr/bin/qemu-system-x86_64")
    text = rules.read_text().replace("web-1", name).replace("/opt/qemu/bin", str(folder))
    fitting = write(folder / rules.name, text)

    document = json.loads(rewrite(alpha, original, "--rules", fitting, "--json"))
    alpha.virsh("define", "--validate", write(folder / "new.xml", document["xml"]))

    assert document["changes"]
    taken = dump(alpha, name)
    for change in document["changes"]:
        found = taken.xpath(f"string({change['xpath']})").strip()
        assert found == (change["new"] or ""), change


def test_a_copy_is_defined_beside_its_original(alpha: Host, original: Path, folder: Path) -> None:
    """Libvirt refuses a name, a UUID, or a UUID in <sysinfo> that is not the copy's own."""
    name = etree.parse(original).findtext("name")
    copy = f"copy-{uuid4().hex[:8]}"
    same = write(folder / "same.xml", original.read_text().replace(f"{name}</name>", f"{copy}</name>"))
    refused = alpha.run(["virsh", "define", same], check=False)
    assert f"domain '{name}' is already defined with uuid" in refused.stderr

    new = rewrite(alpha, original, "--as", copy)
    alpha.virsh("define", "--validate", write(folder / "copy.xml", new))

    try:
        taken, before = dump(alpha, copy), etree.parse(original)
        assert taken.findtext("uuid") == taken.findtext("sysinfo/system/entry[@name='uuid']")
        macs = [set(root.xpath("devices/interface/mac/@address")) for root in (taken, before)]
        assert len(macs[0]) == len(macs[1]) == 2
        assert not macs[0] & macs[1]
        assert str(taken.findtext("os/nvram")).endswith(f"/{copy}_VARS.fd")
        assert {name, copy} <= set(alpha.domain_names())
    finally:
        alpha.virsh("undefine", "--nvram", copy)


def test_a_saved_guest_goes_on_with_rewritten_xml(
    guest_factory: Callable[..., Guest], alpha: Host, folder: Path
) -> None:
    """Its serial line, display and events are others after the restore; it goes on counting."""
    guest = guest_factory(
        devices="<serial type='null'/><graphics type='vnc' port='-1' listen='127.0.0.1' passwd='s3cret'/>"
        "<channel type='unix'><target type='virtio' name='org.fleetsave.test'/></channel>"
    )
    guest.start()
    guest.wait_counting()
    image = folder / "a.save"
    alpha.virsh("save", guest.name, image)
    before = guest.counter()
    rules = write(
        folder / "rules.toml",
        "on_crash = 'preserve'\n"
        "[[serial]]\nport = 1\n"
        f"set = {{ type = 'file', path = '{folder}/second.log', append = true }}\n"
        f"[[channel]]\nname = 'org.fleetsave.test'\nset = {{ path = '{folder}/channel.sock' }}\n"
        "[[graphics]]\nset = { listen = '127.0.0.2' }\n",
    )

    new = write(folder / "new.xml", rewrite(alpha, image, "--rules", rules))
    alpha.virsh("save-image-define", image, new)
    alpha.virsh("restore", image)

    assert guest.wait_counter_beyond(before) < before + 50
    running = etree.fromstring(alpha.virsh("dumpxml", "--security-info", guest.name))
    assert running.findtext("on_crash") == "preserve"
    assert running.xpath("string(devices/serial[2]/source/@path)") == f"{folder}/second.log"
    assert running.xpath("string(devices/channel/source/@path)") == f"{folder}/channel.sock"
    assert running.xpath("string(devices/graphics/listen/@address)") == "127.0.0.2"
    assert running.xpath("string(devices/graphics/@passwd)") == "s3cret"
