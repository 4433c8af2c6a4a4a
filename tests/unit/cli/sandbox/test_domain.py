from dataclasses import replace
from pathlib import Path
from uuid import UUID

from lxml import etree

from cli.sandbox.domain import DiskSpec, GuestSpec, format_domain

_SPEC = GuestSpec(name="web-1", uuid=UUID(int=7))
_SERIAL = Path("/shared/web-1.log")


def _domain(spec: GuestSpec = _SPEC) -> etree._Element:
    text = format_domain(spec, kernel=Path("/boot/k"), initramfs=Path("/boot/i"), serial=_SERIAL)
    return etree.fromstring(text)


def test_equal_specs_give_equal_xml() -> None:
    """Hosts that define one spec define the same domain, as a restore on another host needs."""
    assert etree.tostring(_domain()) == etree.tostring(_domain(replace(_SPEC)))


def test_two_specs_are_two_domains() -> None:
    """Without a UUID given each spec gets one of its own."""
    assert GuestSpec(name="a").uuid != GuestSpec(name="a").uuid


def test_guest_is_emulated_and_boots_from_memory() -> None:
    """The sandbox needs neither KVM nor a disk."""
    domain = _domain()

    assert domain.get("type") == "qemu"
    assert domain.findtext("os/kernel") == "/boot/k"
    assert domain.findtext("os/initrd") == "/boot/i"
    assert domain.find("devices/disk") is None


def test_serial_file_survives_a_restore() -> None:
    """Without append a restored guest would truncate what it printed before it was saved."""
    source = _domain().find("devices/serial/source")

    assert source is not None
    assert dict(source.attrib) == {"path": str(_SERIAL), "append": "on"}


def test_fill_and_drivers_reach_the_guest() -> None:
    """The guest's first process reads its parameters from the kernel's command line."""
    plain = _domain(replace(_SPEC, fill_mib=16)).findtext("os/cmdline", "")
    disk = DiskSpec(path=Path("/store/a.raw"))
    with_disk = _domain(replace(_SPEC, disks=(disk,), writes_disk=True)).findtext("os/cmdline", "")

    assert "fleetsave.fill=16 fleetsave.modules=0 fleetsave.disk=0" in plain
    assert "fleetsave.modules=1 fleetsave.disk=1" in with_disk


def test_network_card_loads_drivers_too() -> None:
    """A virtio device given as XML is of no use to a guest without drivers."""
    card = "<interface type='user'><model type='virtio'/></interface>"
    domain = _domain(replace(_SPEC, devices=card))

    assert domain.find("devices/interface/model") is not None
    assert "fleetsave.modules=1" in domain.findtext("os/cmdline", "")


def test_names_and_texts_are_escaped() -> None:
    """Domain names and descriptions may hold what XML reserves."""
    spec = replace(_SPEC, name="a&b", title="<t>", description="x < y")
    domain = _domain(spec)

    assert domain.findtext("name") == "a&b"
    assert domain.findtext("title") == "<t>"
    assert domain.findtext("description") == "x < y"


def test_metadata_is_taken_as_xml() -> None:
    """Tags that the scheduler selects by are libvirt metadata in a namespace of ours."""
    tags = '<f:tags xmlns:f="urn:fleetsave:1"><f:tag>prod</f:tag></f:tags>'
    domain = _domain(replace(_SPEC, metadata=tags))

    assert domain.findtext("metadata/{urn:fleetsave:1}tags/{urn:fleetsave:1}tag") == "prod"


def test_readonly_disk_says_so() -> None:
    """A read-only disk is guest-visible and must not get lost on the way."""
    disk = DiskSpec(path=Path("/store/a.qcow2"), driver="qcow2", target="vdb", readonly=True)
    element = _domain(replace(_SPEC, disks=(disk,))).find("devices/disk")

    assert element is not None
    assert element.find("readonly") is not None
    assert dict(element.find("target").attrib) == {"dev": "vdb", "bus": "virtio"}  # type: ignore[union-attr]
