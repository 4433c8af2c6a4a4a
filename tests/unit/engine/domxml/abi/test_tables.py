from collections.abc import Iterator

import pytest
from lxml import etree

from engine.domxml.abi.bus import order_controllers, pick_implied
from engine.domxml.abi.display import order_videos
from engine.domxml.abi.display import pick_implied as pick_inputs
from engine.domxml.abi.domain import DOMAIN
from engine.domxml.abi.extras import pick_watchdog
from engine.domxml.abi.storage import order_disks
from engine.domxml.abi.table import Free, Group, Table, Visible, free, same


def all_tables(table: Table = DOMAIN, path: str = "domain") -> Iterator[tuple[str, Table]]:
    """Yield every table there is, and where it stands."""
    yield path, table
    for group in table.groups:
        yield from all_tables(group.table, f"{path}/{group.path}")


def children(text: str) -> list[etree._Element]:
    """Return the elements of a text."""
    return list(etree.fromstring(f"<all>{text}</all>"))


@pytest.mark.parametrize("table", [pytest.param(table, id=path) for path, table in all_tables()])
def test_tables_do_not_contradict_themselves(table: Table) -> None:
    """No path is visible twice, or free twice, or both; and each rule can read an empty element."""
    visible = [path for rule in table.visible for path in rule.paths]
    # The switch of a feature and its size are two values of one element.
    assert {path for path in visible if visible.count(path) > 1} <= {"features/kvm/dirty-ring"}
    free_paths = [rule.path for rule in table.free]
    assert len(set(free_paths)) == len(free_paths)
    # Whether they are there may be visible, although what is in them is free.
    assert set(visible) & set(free_paths) <= {"driver", "features/capabilities"}
    assert not {group.path for group in table.groups} & {*visible, *free_paths} - {"devices/video"}
    for rule in table.visible:
        nothing = etree.Element("nothing")
        assert rule.read(nothing) == rule.read(nothing)


def test_all_words_are_for_operators() -> None:
    """Each rule says why, in one line without a full stop."""
    for _, table in all_tables():
        for reason in (*(rule.reason for rule in table.visible), *(rule.reason for rule in table.free)):
            assert reason == reason.strip()
            assert reason
            assert "\n" not in reason
            assert not reason.endswith(".")


def test_the_innermost_rule_wins() -> None:
    """A visible attribute inside of what is free, and the other way round."""
    table = Table(
        visible=(
            same("driver/@queues", "seen"),
            Visible(paths=("address/**",), read=str, reason="place"),
            same("serial", "number"),
        ),
        free=free("host", "driver", "address/@multifunction", "@type"),
        groups=(Group(path="list/item", table=Table(), noun="item"),),
    )

    found = {
        path: rule.reason if (rule := table.find(path)) else None
        for path in (
            "driver", "driver/@name", "driver/@queues", "driver/host/@csum", "address/@slot",
            "address/@multifunction", "serial", "serial/@x", "@type", "@other", "other/driver",
        )
    }  # fmt: skip

    assert found == {
        "driver": "host",
        "driver/@name": "host",
        "driver/@queues": "seen",
        "driver/host/@csum": "host",
        "address/@slot": "place",
        "address/@multifunction": "host",
        "serial": "number",
        "serial/@x": None,
        "@type": "host",
        "@other": None,
        "other/driver": None,
    }
    assert isinstance(table.find("driver"), Free)
    assert table.has_inner("list")
    assert table.group_at("list/item") is not None
    assert table.counts_once("serial")
    assert not table.counts_once("driver/host")


def test_a_rule_counts_from_its_version_on() -> None:
    """Before it, the path is what stands around it."""
    table = Table(visible=(same("driver/@queues", "seen", since=(11, 4, 0)),), free=free("host", "driver"))

    assert isinstance(table.at((11, 3, 9)).find("driver/@queues"), Free)
    assert isinstance(table.at((11, 4, 0)).find("driver/@queues"), Visible)
    assert table.at((12, 0, 0)) is table


def test_disks_go_by_bus_and_name() -> None:
    """Buses in the order of their first disk; names by letters, not by alphabet."""
    disks = children("".join(
        f"<disk><target dev='{name}' bus='{bus}'/></disk>"
        for name, bus in (
            ("vdb", "virtio"), ("sdaa", "scsi"), ("vdaa", "virtio"), ("sdz", "scsi"), ("vda", "virtio"),
            ("hda", "ide"), ("odd", "scsi"),
        )
    ))  # fmt: skip

    names = [str(disk.xpath("string(target/@dev)")) for disk in order_disks(disks)]

    assert names == ["vda", "vdb", "vdaa", "odd", "sdz", "sdaa", "hda"]


def test_controllers_go_by_type_and_index() -> None:
    """Types in the order of their first one; a companion comes behind its master."""
    controllers = children(
        "<controller type='usb' index='1'/>"
        "<controller type='pci' index='1'/>"
        "<controller type='usb' index='0' model='uhci'><master startport='0'/></controller>"
        "<controller type='usb' index='0' model='ehci'/>"
        "<controller type='pci' index='0'/>"
    )

    order = [(one.get("type"), one.get("index"), one.get("model")) for one in order_controllers(controllers)]

    assert order == [
        ("usb", "0", "ehci"), ("usb", "0", "uhci"), ("usb", "1", None), ("pci", "0", None),
        ("pci", "1", None),
    ]  # fmt: skip


def test_the_primary_video_card_comes_first() -> None:
    """Wherever it stands."""
    videos = children("<video><model type='a'/></video><video><model type='b' primary='yes'/></video>")

    assert [str(one.xpath("string(model/@type)")) for one in order_videos(videos)] == ["b", "a"]


USB = "<controller type='usb' index='0' model='piix3-uhci'/>"
PCI = "<controller type='pci' index='0' model='pci-root'/>"


@pytest.mark.parametrize(
    ("machine", "controllers", "kinds"),
    [
        ("pc-i440fx-10.0", USB + PCI, {"usb", "pci"}),
        ("pc", USB, {"usb"}),
        ("pc-q35-10.0", USB + PCI, set()),
        ("pc-i440fx-10.0", USB + USB.replace("'0'", "'1'"), set()),
        ("pc-i440fx-10.0", USB.replace("piix3-uhci", "none"), set()),
        ("pc-i440fx-10.0", USB.replace("'0'", "'1'"), set()),
        ("pc-i440fx-10.0", USB.replace("/>", "><alias name='ua-mine'/></controller>"), set()),
        ("pc-i440fx-10.0", USB.replace("/>", "><alias name='usb'/></controller>"), {"usb"}),
        ("pc-i440fx-10.0", PCI.replace("/>", "><pcihole64>1</pcihole64></controller>"), set()),
        ("pc-i440fx-10.0", "", set()),
    ],
)
def test_what_every_pc_has_is_known(machine: str, controllers: str, kinds: set[str]) -> None:
    """The only controllers of their type, as libvirt makes them; none that somebody has chosen."""
    root = etree.fromstring(
        f"<domain><os><type machine='{machine}'/></os><devices>{controllers}</devices></domain>"
    )

    assert pick_implied(root.findall("devices/controller")).keys() == kinds


MOUSE, KEYBOARD = "<input type='mouse' bus='ps2'/>", "<input type='keyboard' bus='ps2'/>"
TABLET = "<input type='tablet' bus='usb'/>"


@pytest.mark.parametrize(
    ("inputs", "kinds"),
    [
        (MOUSE + KEYBOARD, {"mouse", "keyboard"}),
        (TABLET + MOUSE, {"mouse"}),
        (TABLET + KEYBOARD, {"keyboard"}),
        (MOUSE + KEYBOARD + TABLET, set()),
        (KEYBOARD + MOUSE, {"mouse"}),
        (KEYBOARD + KEYBOARD, {"keyboard"}),
        (MOUSE.replace("ps2", "usb"), set()),
        ("", set()),
    ],
)
def test_ps2_devices_are_known_where_libvirt_adds_them(inputs: str, kinds: set[str]) -> None:
    """Behind all others, the mouse before the keyboard."""
    assert pick_inputs(children(inputs)).keys() == kinds


def test_the_watchdog_of_q35_is_known_where_libvirt_adds_it() -> None:
    """Behind all others, and only one."""
    itco, other = "<watchdog model='itco' action='none'/>", "<watchdog model='i6300esb'/>"

    assert pick_watchdog(children(other + itco)).keys() == {"itco"}
    assert pick_watchdog(children(itco + other)) == {}
    assert pick_watchdog(children(itco + itco)) == {}
    assert pick_watchdog([]) == {}
