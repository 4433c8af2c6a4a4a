"""A copy's name, UUID, MAC addresses, and what is named after the original."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domxml.document import identity_of, parse_domain_xml
from engine.domxml.identity import NewIdentity, check_name, derive_identity, derive_macs, rename_domain
from engine.domxml.rewrite import Rewrite
from engine.errors import DomainXmlError

UUIDS = ("0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d", "11111111-6d0a-4f0e-9c3a-2f1d6a7b8c9d")
NAMES = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="/"),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in {".", ".."})


def domain(inside: str, devices: str = "") -> str:
    """Return a domain called web-1."""
    return (
        f"<domain>\n  <name>web-1</name>\n  <uuid>{UUIDS[0]}</uuid>\n{inside}"
        f"  <devices>\n{devices}  </devices>\n</domain>\n"
    )


def rename(xml: str, name: str = "web-2", macs: tuple[str, ...] = ()) -> Rewrite:
    """Give a domain another name and UUIDS[1]."""
    return rename_domain(xml, NewIdentity(name=name, uuid=UUID(UUIDS[1]), macs=macs), where="web-1.xml")


def test_name_and_uuid_change_wherever_libvirt_compares_them() -> None:
    """And a domain without a UUID gets one."""
    xml = domain(f"  <sysinfo><system><entry name='uuid'> {UUIDS[0]} </entry></system></sysinfo>\n")

    done = rename(xml)

    assert done.xml == xml.replace("web-1", "web-2").replace(*UUIDS)
    assert [change.xpath for change in done.changes] == [
        "/domain/name[1]/text()", "/domain/uuid[1]/text()", "/domain/sysinfo[1]/system[1]/entry[1]/text()",
    ]  # fmt: skip
    assert {change.rule for change in done.changes} == {"new identity"}
    assert rename("<domain>\n  <name>a</name>\n</domain>").xml == (
        f"<domain>\n  <name>web-2</name>\n  <uuid>{UUIDS[1]}</uuid>\n</domain>"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<channel type='unix'><source mode='bind' path='/run/qemu/channel/5-web-1/org.x'/></channel>",
         "<channel type='unix'><source mode='bind'/></channel>"),
        ("<channel type='unix'><source path='/v/channel/target/domain-12-web-1/org.x'/></channel>",
         "<channel type='unix'><source/></channel>"),
        ("<channel type='unix'><source path='/srv/web-1.sock'/></channel>",
         "<channel type='unix'><source path='/srv/web-2.sock'/></channel>"),
        ("<serial type='file'><source path='/log/web-1/web-1-serial.log'/><log file='/log/web-1'/></serial>",
         "<serial type='file'><source path='/log/web-2/web-2-serial.log'/><log file='/log/web-2'/></serial>"),
        ("<serial type='file'><source path='/log/web-10.log'/><log file='/log/web-1-2.log'/></serial>", None),
        ("<serial type='file'><source path='/log/my-web-1.log'/></serial>", None),
        ("<serial type='dev'><source path='/dev/web-1'/></serial>", None),
        ("<disk type='file'><source file='/srv/web-1.qcow2'/></disk>", None),
        ("<graphics type='vnc' socket='/web-1.s'><listen type='socket' socket='/web-1.s'/></graphics>",
         "<graphics type='vnc' socket='/web-2.s'><listen type='socket' socket='/web-2.s'/></graphics>"),
    ],
)  # fmt: skip
def test_what_two_domains_cannot_share_is_renamed(old: str, new: str | None) -> None:
    """Sockets and files of devices; never a disk, never what another name begins with."""
    xml = domain("", f"    {old}\n")

    done = rename(xml)

    assert f"    {new or old}\n" in done.xml
    assert len(done.xml.splitlines()) == len(xml.splitlines())


@pytest.mark.parametrize(
    "nvram",
    [
        "<nvram template='/t'>/nvram/{}_VARS.fd</nvram>",
        "<nvram type='file'><source file='/nvram/{}_VARS.fd'/></nvram>",
    ],
)
def test_firmware_variables_are_a_file_of_its_own(nvram: str) -> None:
    """Whichever way libvirt spells it."""
    done = rename(domain(f"  <os>{nvram.format('web-1')}</os>\n"))

    assert nvram.format("web-2") in done.xml


def test_label_named_after_the_uuid_follows() -> None:
    """AppArmor's dynamic labels hold it."""
    label = "  <seclabel><label>libvirt-{0}</label><imagelabel>libvirt-{0}</imagelabel></seclabel>\n"

    assert label.format(UUIDS[1]) in rename(domain(label.format(UUIDS[0]))).xml


def test_each_interface_gets_an_address_and_leaves_its_port() -> None:
    """One without an address gets one, too; a tap that somebody else made keeps its name."""
    macs = ("52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03")
    old = (
        "    <interface type='network'>\n      <mac address='52:54:00:aa:bb:cc'/>\n"
        "      <source network='a' portid='p'/>\n      <target dev='vnet0'/>\n    </interface>\n"
        "    <interface type='bridge'>\n      <source bridge='b'/>\n"
        "      <virtualport type='openvswitch'>\n        <parameters interfaceid='i' profileid='q'/>\n"
        "      </virtualport>\n    </interface>\n"
        "    <interface type='ethernet'>\n      <mac address='52:54:00:aa:bb:dd'/>\n"
        "      <target dev='tap7' managed='no'/>\n    </interface>\n"
    )

    done = rename(domain("", old), macs=macs)

    assert (
        "    <interface type='network'>\n      <mac address='52:54:00:00:00:01'/>\n"
        "      <source network='a'/>\n    </interface>\n"
        "    <interface type='bridge'>\n      <source bridge='b'/>\n"
        "      <virtualport type='openvswitch'>\n        <parameters profileid='q'/>\n"
        "      </virtualport>\n      <mac address='52:54:00:00:00:02'/>\n    </interface>\n"
        "    <interface type='ethernet'>\n      <mac address='52:54:00:00:00:03'/>\n"
        "      <target dev='tap7' managed='no'/>\n    </interface>\n"
    ) in done.xml


def test_another_number_of_addresses_is_refused() -> None:
    """An interface must not keep the original's."""
    with pytest.raises(DomainXmlError, match="1 interfaces, want 0"):
        rename(domain("", "<interface type='user'/>"))
    with pytest.raises(ValueError, match="one MAC address for two interfaces"):
        NewIdentity(name="a", uuid=UUID(UUIDS[1]), macs=("a", "a"))


@pytest.mark.parametrize("name", ["", " a", "a\n", "a/b", "..", "a\0", "\ud800", "x" * 201])
def test_a_name_that_libvirt_would_refuse_is_refused(name: str) -> None:
    """Before anything is named by it."""
    with pytest.raises(ValueError, match=", want "):
        check_name(name)
    with pytest.raises(DomainXmlError, match=r"new name for web-1\.xml: ") as caught:
        derive_identity(parse_domain_xml(domain(""), where=""), name, where="web-1.xml")
    assert caught.value.exit_code == 10


@given(NAMES, st.integers(0, 5))
def test_renamed_domain_is_the_copy_and_the_question_has_one_answer(name: str, interfaces: int) -> None:
    """Any name, any number of interfaces: read back as it was asked for, with addresses of its own."""
    nic = "<interface type='user'><mac address='52:54:00:00:00:0{}'/></interface>"
    xml = domain("", "".join(nic.format(number) for number in range(interfaces)))
    root = parse_domain_xml(xml, where="old")
    identity = derive_identity(root, name, where="old")

    done = rename_domain(xml, identity, where="old")

    new = parse_domain_xml(done.xml, where="new")
    assert identity == derive_identity(root, name, where="old")
    assert identity_of(new, where="new").name == name
    assert identity_of(new, where="new").uuid == identity.uuid
    macs = [mac.get("address") for mac in new.iterfind("devices/interface/mac")]
    assert tuple(macs) == identity.macs
    assert not {mac.get("address") for mac in root.iterfind("devices/interface/mac")} & set(macs)


@given(st.uuids(), st.integers(0, 300), st.data())
def test_addresses_are_all_different_and_not_taken(uuid: UUID, count: int, data: st.DataObject) -> None:
    """All of them begin as QEMU's own do."""
    first = derive_macs(uuid, count)
    taken = data.draw(st.sets(st.sampled_from(first))) if first else set()

    macs = derive_macs(uuid, count, taken=taken)

    assert len(set(macs)) == count
    assert not taken & set(macs)
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)
