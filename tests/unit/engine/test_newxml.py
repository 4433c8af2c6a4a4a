"""What is wished for becomes domain XML that leaves the guest's machine as it is, or is refused."""

from __future__ import annotations

import pytest

from engine.domxml.changes import Change
from engine.domxml.document import identity_of, parse_domain_xml
from engine.errors import AbiError, DomainXmlError, InvalidArgumentError
from engine.newxml import XmlPlan, XmlWish, plan_xml
from tests.data.image_files import OTHER_XML, UUID, XML

DISK_XML = XML.replace(
    "</domain>",
    "<devices><disk type='file' device='disk'><source file='/srv/a/web-1.qcow2'/>"
    "<target dev='vda' bus='virtio'/></disk>"
    "<interface type='network'><mac address='52:54:00:00:00:01'/>"
    "<source network='default'/><model type='virtio'/></interface>"
    "<graphics type='vnc' port='-1' passwd='s3cret'/></devices></domain>",
)
MOVE = "[[disk]]\nsource = { prefix = '/srv/a/', replace = '/srv/b/' }\n"


def plan(saved: str = DISK_XML, *, libvirt: str = "11.3.0", **wish: str | None) -> XmlPlan:
    """Return the plan of a wish about an image."""
    return plan_xml(saved, XmlWish(**wish), where="a.save", is_image=True, libvirt=libvirt)


def test_nothing_wished_for_changes_nothing() -> None:
    """The image's own XML is used, to the character; libvirt is given none."""
    assert plan() == XmlPlan(xml=DISK_XML, changes=(), dxml=None, is_copy=False)


def test_rules_make_a_dxml() -> None:
    """What they name changes, and is listed; libvirt is given the whole text."""
    found = plan(rules=MOVE)

    assert found.xml == found.dxml == DISK_XML.replace("/srv/a/", "/srv/b/")
    assert [(change.old, change.new) for change in found.changes] == [
        ("/srv/a/web-1.qcow2", "/srv/b/web-1.qcow2")
    ]
    assert not found.is_copy


def test_dxml_and_rules_exclude_each_other() -> None:
    """Nobody could say which comes first."""
    with pytest.raises(InvalidArgumentError, match="rules"):
        XmlWish(dxml=XML, rules=MOVE)


def test_dxml_of_the_host_s_part_is_taken() -> None:
    """What happens at a crash is no affair of the guest."""
    assert plan(XML, dxml=OTHER_XML).changes == (
        Change(xpath="/domain/on_crash[1]/text()", old="destroy", new="restart"),
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("2</vcpu>", "4</vcpu>", "vcpu"),
        ("pc-q35-10.0", "pc-q35-9.0", "machine"),
        ("262144</memory>", "524288</memory>", "memory"),
        ("52:54:00:00:00:01", "52:54:00:00:00:02", "address"),
        ("dev='vda' bus='virtio'", "dev='sda' bus='scsi'", "disk"),
    ],
)
def test_what_the_guest_would_notice_is_refused(old: str, new: str, words: str) -> None:
    """The sentence says where, and what it was."""
    assert old in DISK_XML

    with pytest.raises(AbiError, match=words) as caught:
        plan(dxml=DISK_XML.replace(old, new))

    assert "s3cret" not in str(caught.value)


def test_all_that_is_refused_is_named_at_once() -> None:
    """Nobody has to mend one thing after the other."""
    new = DISK_XML.replace("2</vcpu>", "4</vcpu>").replace("262144</memory>", "524288</memory>")

    with pytest.raises(AbiError) as caught:
        plan(dxml=new)

    assert "vcpu" in str(caught.value)
    assert "memory" in str(caught.value)


def test_rule_that_reaches_into_the_machine_is_named() -> None:
    """The operator has to know which of them it is."""
    rules = f"{MOVE}[[interface]]\nsource = {{ network = 'default' }}\nset = {{ type = 'hostdev' }}\n"

    with pytest.raises((AbiError, DomainXmlError), match=r"interface"):
        plan(rules=rules)


def test_rule_that_matches_nothing_is_refused() -> None:
    """It was written for something."""
    with pytest.raises(DomainXmlError, match="matches nothing"):
        plan(rules=MOVE.replace("/srv/a/", "/srv/x/"))


def test_domain_of_another_uuid_is_refused() -> None:
    """It is another guest's XML."""
    with pytest.raises(AbiError, match="uuid"):
        plan(XML, dxml=XML.replace(UUID, "00000000-0000-4000-8000-000000000001"))


def test_copy_has_an_identity_of_its_own() -> None:
    """Name, UUID and MAC are new, nothing else is; libvirt is given no dxml, it would refuse that."""
    found = plan(new_name="web-1-copy", rules=MOVE)
    again = plan(new_name="web-1-copy", rules=MOVE)

    root = parse_domain_xml(found.xml, where="copy")
    identity = identity_of(root, where="copy")
    assert identity.name == "web-1-copy"
    assert str(identity.uuid) != UUID
    assert "52:54:00:00:00:01" not in found.xml
    assert "/srv/b/web-1.qcow2" in found.xml
    assert (found.dxml, found.is_copy) == (None, True)
    assert found == again
    assert {change.new for change in found.changes} >= {"web-1-copy", str(identity.uuid)}


def test_copy_may_not_change_the_machine() -> None:
    """Libvirt does not look at a copy: nobody else would refuse it."""
    with pytest.raises(AbiError, match="vcpu"):
        plan(new_name="web-1-copy", dxml=DISK_XML.replace("2</vcpu>", "4</vcpu>"))


def test_copy_from_a_dxml_is_renamed_too() -> None:
    """Whoever wrote it may leave the name to --as."""
    found = plan(new_name="web-1-copy", dxml=DISK_XML.replace("/srv/a/", "/srv/b/"))

    assert identity_of(parse_domain_xml(found.xml, where="copy"), where="copy").name == "web-1-copy"
    assert "/srv/b/" in found.xml


def test_passwords_are_in_no_change() -> None:
    """Manifests and logs are read by many."""
    found = plan(dxml=DISK_XML.replace("s3cret", "t0psecret"))

    assert "s3cret" not in str(found.changes)
    assert "t0psecret" not in str(found.changes)
    assert "t0psecret" in found.xml


def test_rules_of_the_libvirt_that_restores_apply() -> None:
    """From 11.4 on the queues of an interface are looked at."""
    old = DISK_XML.replace("<model type='virtio'/>", "<model type='virtio'/><driver queues='2'/>")
    new = old.replace("queues='2'", "queues='4'")

    assert plan(old, dxml=new, libvirt="11.3.0").dxml == new
    with pytest.raises(AbiError, match="queues"):
        plan(old, dxml=new, libvirt="11.4.0")
