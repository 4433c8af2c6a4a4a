"""Where the content of disks lies."""

from pathlib import Path

from engine.domxml.document import parse_domain_xml
from engine.domxml.sources import list_sources

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "dxml" / "web-1.xml"


def test_all_of_a_chain_and_every_type() -> None:
    """What lies below a disk's own file is only read; an empty drive has nothing."""
    root = parse_domain_xml(EXAMPLE.read_text(), where="web-1.xml")

    assert [(one.target, one.type, one.location, one.is_readonly) for one in list_sources(root)] == [
        ("vda", "file", "/srv/a/web-1/root.qcow2", False),
        ("vda", "file", "/srv/a/base/debian-12.qcow2", True),
        ("vdb", "block", "/dev/vg-a/web-1-log", False),
        ("vdc", "network", "nbd:web-1-scratch", False),
    ]


def test_volumes_data_files_and_flags() -> None:
    """A qcow2 file may keep its data in another; readonly and shareable are the disk's."""
    root = parse_domain_xml(
        "<domain><devices><disk type='volume'><source pool='p' volume='v'>"
        "<dataStore type='block'><source dev='/dev/d'/></dataStore></source><shareable/></disk>"
        "<disk><source file='/f'/><readonly/></disk><disk type='nvme'><source type='pci'/></disk>"
        "</devices></domain>",
        where="xml",
    )

    assert [(one.location, one.is_readonly, one.is_shareable) for one in list_sources(root)] == [
        ("p/v", False, True), ("/dev/d", False, True), ("/f", True, False),
    ]  # fmt: skip
