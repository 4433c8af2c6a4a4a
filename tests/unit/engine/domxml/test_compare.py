from copy import deepcopy
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from engine.domxml.compare import compare
from engine.domxml.difference import Difference
from engine.domxml.document import parse_domain_xml

DOMAINS: Final = {
    path.stem: parse_domain_xml(path.read_text(), where=path.name)
    for path in sorted((Path(__file__).parents[3] / "data" / "domains").glob("*.xml"))
}
DISK: Final = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/a'/>"
    "<target dev='vda' bus='virtio'/><address type='pci' bus='0x01' slot='0x00' function='0x0'/></disk>"
)
CARD: Final = "<interface type='user'><mac address='52:54:00:00:00:0{}'/><model type='e1000'/></interface>"


def domain(text: str, machine: str = "pc-q35-10.0") -> etree._Element:
    """Return a domain with the devices of a text, or with what else it has to have."""
    body = text if text.startswith("<devices") or "</devices>" in text else f"<devices>{text}</devices>"
    return parse_domain_xml(
        f"<domain type='kvm'><name>a</name><os><type machine='{machine}'>hvm</type></os>{body}</domain>",
        where="test",
    )


def other(text: str) -> etree._Element:
    """Return a domain with the elements of a text, and no devices."""
    return domain(f"{text}<devices></devices>")


def told(*texts: etree._Element, is_image: bool = False) -> list[tuple[str | None, str | None, bool]]:
    """Return places and verdicts of the differences of two domains."""
    return [
        (one.xpath, one.new_xpath, one.guest_visible)
        for one in compare(*texts, is_image=is_image).differences
    ]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_stable_against_itself(name: str) -> None:
    """Nothing differs, however it is laid out."""
    root = DOMAINS[name]
    again = deepcopy(root)
    etree.indent(again, space="\t")

    assert compare(root, deepcopy(root)).differences == ()
    assert compare(root, again).differences == ()
    assert compare(root, again, is_image=True, libvirt=(9, 0, 0)).differences == ()


@pytest.mark.parametrize("name", DOMAINS)
def test_no_domain_is_stable_against_another(name: str) -> None:
    """At the least, UUID and name differ."""
    for another, root in DOMAINS.items():
        assert compare(DOMAINS[name], root).stable is (another == name)


@given(st.sampled_from(sorted(DOMAINS)), st.data())
def test_every_change_is_told_with_its_place(name: str, data: st.DataObject) -> None:
    """One attribute that gets a value nothing else has: each place leads to one thing."""
    old, new = DOMAINS[name], deepcopy(DOMAINS[name])
    element = data.draw(st.sampled_from([one for one in new.iter("*") if one.attrib]))
    attribute = data.draw(st.sampled_from(sorted(map(str, element.attrib))))
    element.set(attribute, f"{element.get(attribute)}-changed")

    found = compare(old, new).differences

    assert found
    for one in found:
        assert one.old != one.new
        assert one.reason
        for path, root, value in ((one.xpath, old, one.old), (one.new_xpath, new, one.new)):
            if path is not None:
                assert value is not None
                assert len(_select(root, path)) == 1


def _select(root: etree._Element, path: str) -> list[object]:
    found = root.xpath(path)
    assert isinstance(found, list)
    return list(found)


@given(st.sampled_from(sorted(DOMAINS)), st.data())
def test_nothing_that_is_added_or_taken_away_is_overlooked(name: str, data: st.DataObject) -> None:
    """An element less or twice makes a difference, and the same one in both directions."""
    old, new = DOMAINS[name], deepcopy(DOMAINS[name])
    element = data.draw(st.sampled_from([one for one in new.iter("*") if one is not new]))
    parent = element.getparent()
    assert parent is not None
    if data.draw(st.booleans()):
        parent.remove(element)
    else:
        element.addnext(deepcopy(element))

    # An empty element that only holds others says nothing.
    assert compare(old, new).differences or not len(element)
    assert compare(old, new).stable is compare(new, old).stable


def test_both_documents_and_both_values_are_named() -> None:
    """A disk that stands elsewhere in the new document is still the same disk."""
    first, second = DISK, DISK.replace("vda", "vdb").replace("0x01", "0x02")
    found = compare(domain(first + second), domain(second.replace("/a", "/b") + first)).differences

    assert found == (
        Difference(
            xpath="/domain/devices[1]/disk[2]/source[1]/@file",
            new_xpath="/domain/devices[1]/disk[1]/source[1]/@file",
            old="/a",
            new="/b",
            guest_visible=False,
            reason="where the host keeps the disk's content",
        ),
    )


def test_network_cards_keep_their_order() -> None:
    """The first is compared with the first: two that changed places are two other cards."""
    cards = [CARD.format(number) for number in range(3)]

    assert told(domain("".join(cards)), domain(cards[1] + cards[0] + cards[2])) == [
        (path := "/domain/devices[1]/interface[1]/mac[1]/@address", path, True),
        (path := "/domain/devices[1]/interface[2]/mac[1]/@address", path, True),
    ]


def test_a_device_less_is_found_among_its_like() -> None:
    """Only the one that is missing is told, wherever it was."""
    cards = [CARD.format(number) for number in range(3)]

    assert told(domain("".join(cards)), domain(cards[1] + cards[2])) == [
        ("/domain/devices[1]/interface[1]", None, True)
    ]
    assert told(domain(cards[0]), domain(cards[0] * 2)) == [(None, "/domain/devices[1]/interface[2]", True)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<memory unit='MiB'>256</memory>", "<memory>262144</memory>"),
        ("<memory>8</memory><currentMemory>8</currentMemory>", "<memory>8</memory>"),
        ("<memory>8</memory><currentMemory>0</currentMemory>", "<memory>8</memory>"),
        ("<vcpu current='2'>2</vcpu>", "<vcpu>2</vcpu>"),
        ("<vcpu>1</vcpu>", ""),
        ("<uuid>0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d</uuid>",
         "<uuid>0B5E4F7C6D0A4F0E9C3A2F1D6A7B8C9D</uuid>"),
        ("<features><smm state='on'/></features>", "<features><smm/></features>"),
        ("<features><hyperv><relaxed state='on'/></hyperv></features>",
         "<features><hyperv mode='custom'><relaxed state='on'/></hyperv></features>"),
        ("<features><smm><tseg unit='MiB'>1</tseg></smm></features>",
         "<features><smm><tseg unit='KiB'>1024</tseg></smm></features>"),
        ("<cpu mode='host-model' check='partial'/>", "<cpu mode='host-model'/>"),
        ("<cpu mode='host-passthrough' check='none'/>", "<cpu mode='host-passthrough'/>"),
        ("<cpu><topology sockets='1' dies='1' cores='2' threads='1'/></cpu>",
         "<cpu><topology sockets='1' cores='2' threads='1'/></cpu>"),
        ("<cpu><feature name='vmx' policy='require'/></cpu>", "<cpu><feature name='vmx'/></cpu>"),
        ("<cpu><numa><cell id='0' cpus='0-2' memory='1' unit='MiB'/></numa></cpu>",
         "<cpu><numa><cell id='0' cpus='0,1,2' memory='1024'/></numa></cpu>"),
        ("<vcpus><vcpu id='0' enabled='yes' order='1'/><vcpu id='1' enabled='no'/></vcpus>",
         "<vcpus><vcpu id='1' enabled='no'/><vcpu id='0' enabled='yes' order='1'/></vcpus>"),
    ],
)  # fmt: skip
def test_two_ways_to_say_one_thing_are_no_difference(old: str, new: str) -> None:
    """Units, defaults that are left out, and numbers in other notations."""
    assert compare(other(old), other(new)).differences == ()
    assert compare(other(new), other(old)).differences == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<features><acpi/></features>", "<features/>"),
        ("<features><apic/></features>", "<features><apic eoi='off'/></features>"),
        ("<features><kvm/></features>", "<features/>"),
        ("<features><hyperv><spinlocks state='on' retries='8191'/></hyperv></features>",
         "<features><hyperv><spinlocks state='on' retries='4096'/></hyperv></features>"),
        ("<features><hyperv><vendor_id state='on' value='a'/></hyperv></features>",
         "<features><hyperv><vendor_id state='on' value='b'/></hyperv></features>"),
        ("<features><hyperv><stimer state='on'><direct state='on'/></stimer></hyperv></features>",
         "<features><hyperv><stimer state='on'/></hyperv></features>"),
        ("<features><kvm><dirty-ring state='on' size='4096'/></kvm></features>",
         "<features><kvm><dirty-ring state='on' size='8192'/></kvm></features>"),
        ("<genid>0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d</genid>", ""),
        ("<genid/>", ""),
        ("<memory>8</memory>", "<memory>9</memory>"),
        ("<memory>8</memory>", "<memory>8</memory><memory>9</memory>"),
        ("<memory>8</memory><currentMemory>4</currentMemory>", "<memory>8</memory>"),
        ("<maxMemory slots='2'>8</maxMemory>", "<maxMemory slots='3'>8</maxMemory>"),
        ("<memoryBacking><source type='memfd'/></memoryBacking>", ""),
        ("<vcpu>2</vcpu>", "<vcpu current='1'>2</vcpu>"),
        ("<vcpus><vcpu id='0' enabled='yes' order='1'/><vcpu id='1' enabled='yes' order='2'/></vcpus>",
         "<vcpus><vcpu id='0' enabled='yes' order='2'/><vcpu id='1' enabled='yes' order='1'/></vcpus>"),
        ("<cpu mode='host-model'/>", ""),
        ("<cpu><model>a</model></cpu>", "<cpu><model>b</model></cpu>"),
        ("<cpu><feature name='a'/><feature name='b'/></cpu>",
         "<cpu><feature name='b'/><feature name='a'/></cpu>"),
        ("<cpu><maxphysaddr mode='emulate' bits='42'/></cpu>",
         "<cpu><maxphysaddr mode='emulate' bits='43'/></cpu>"),
        ("<clock><timer name='tsc' frequency='1'/></clock>",
         "<clock><timer name='tsc' frequency='2'/></clock>"),
        ("<clock><timer name='pit'/><timer name='rtc'/></clock>",
         "<clock><timer name='rtc'/><timer name='pit'/></clock>"),
        ("<sysinfo type='smbios'><system><entry name='serial'>a</entry></system></sysinfo>",
         "<sysinfo type='smbios'><system><entry name='serial'>b</entry></system></sysinfo>"),
        ("<sysinfo type='smbios'><baseBoard><entry name='asset'>a</entry></baseBoard></sysinfo>",
         "<sysinfo type='smbios'/>"),
        ("<launchSecurity type='sev'/>", ""),
        ("", "<unheard-of/>"),
        ("<cpu unheard-of='a'/>", "<cpu unheard-of='b'/>"),
        ("<features>a</features>", "<features>b</features>"),
        ("", "<description xmlns='urn:x'/>"),
        ("", "<devices><unheard-of/></devices>"),
    ],
)  # fmt: skip
def test_what_the_guest_sees_is_refused(old: str, new: str) -> None:
    """Either way round, and what nobody has heard of, too."""
    assert not compare(other(old), other(new)).stable
    assert not compare(other(new), other(old)).stable


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<description>a</description>", "<title>b</title>"),
        ("<metadata><x:y xmlns:x='urn:x'>a</x:y></metadata>", "<metadata/>"),
        ("<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>"),
        ("<clock offset='utc'/>", "<clock offset='localtime'/>"),
        ("<cpu><model fallback='allow'>a</model></cpu>", "<cpu><model fallback='forbid'>a</model></cpu>"),
        ("<clock><timer name='tsc' tickpolicy='delay'/></clock>", "<clock><timer name='tsc'/></clock>"),
        ("<clock><timer name='rtc' frequency='1'/></clock>",
         "<clock><timer name='rtc' frequency='2'/></clock>"),
        ("<sysinfo type='fwcfg'><entry name='opt/a'>a</entry></sysinfo>",
         "<sysinfo type='fwcfg'><entry name='opt/a'>b</entry></sysinfo>"),
        ("<vcpu cpuset='0'>1</vcpu><cputune><shares>1</shares></cputune>", "<vcpu cpuset='1'>1</vcpu>"),
        ("<features><smm state='off'><tseg>1</tseg></smm></features>",
         "<features><smm state='off'/></features>"),
        ("<vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/></vcpus>",
         "<vcpus><vcpu id='0' enabled='yes' hotpluggable='yes'/></vcpus>"),
        ("<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'/>", ""),
    ],
)  # fmt: skip
def test_what_is_the_hosts_is_allowed(old: str, new: str) -> None:
    """Either way round; each difference is told all the same."""
    for found in (compare(other(old), other(new)), compare(other(new), other(old))):
        assert found.stable
        assert found.differences


@pytest.mark.parametrize(
    ("old", "new", "is_stable"),
    [
        (DISK, DISK.replace("/a", "/b"), True),
        (DISK, DISK.replace("'raw'", "'qcow2'"), True),
        (DISK, DISK.replace("slot='0x00'", "slot='0'"), True),
        (DISK, DISK.replace("slot='0x00'", "slot='0x01'"), False),
        (DISK, DISK.replace("<address", "<readonly/><address"), False),
        (DISK, DISK.replace("vda", "vdb"), False),
        (DISK, DISK.replace("'raw'", "'raw' queues='4'"), False),
        (DISK, DISK.replace("<driver name='qemu' type='raw'/>", ""), False),
        (CARD.format(1), CARD.format(1).replace("'user'", "'network'"), True),
        (CARD.format(1), CARD.format(1).replace("'user'", "'hostdev'"), False),
        (CARD.format("a"), CARD.format("A"), True),
        (CARD.format(1), CARD.format(2), False),
        ("<hostdev mode='subsystem' type='pci'/>", "<hostdev mode='subsystem' type='mdev'/>", True),
        ("<hostdev mode='subsystem' type='pci'/>", "<hostdev mode='subsystem' type='usb'/>", False),
        ("<channel type='unix'><target type='virtio' name='a'/></channel>",
         "<channel type='pty'><target type='virtio' name='a'/></channel>", True),
        ("<channel type='spicevmc'><target type='virtio'/></channel>",
         "<channel type='pty'><target type='virtio'/></channel>", False),
        ("<channel type='unix'><target type='guestfwd' address='10.0.2.1' port='1'/></channel>",
         "<channel type='unix'><target type='guestfwd' address='10.0.2.1' port='2'/></channel>", False),
        ("<redirdev type='unix' bus='usb'/>", "<redirdev type='tcp' bus='usb'/>", False),
        ("<redirfilter><usbdev class='0x08' allow='yes'/></redirfilter>",
         "<redirfilter><usbdev class='8' allow='yes'/></redirfilter>", True),
        ("<redirfilter><usbdev allow='yes'/></redirfilter>",
         "<redirfilter><usbdev allow='no'/></redirfilter>", False),
        ("<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>",
         "<tpm model='tpm-tis'><backend type='emulator' version='1.2'/></tpm>", False),
        ("<tpm><backend type='emulator'><active_pcr_banks><sha1/><sm3/></active_pcr_banks></backend></tpm>",
         "<tpm><backend type='emulator'><active_pcr_banks><sm3/><sha1/></active_pcr_banks></backend></tpm>",
         True),
        ("<tpm><backend type='emulator'><active_pcr_banks><sha1/></active_pcr_banks></backend></tpm>",
         "<tpm><backend type='emulator'/></tpm>", False),
        ("<tpm><backend type='emulator' persistent_state='yes'/></tpm>",
         "<tpm><backend type='emulator'/></tpm>", True),
        ("<memory model='dimm'><alias name='dimm0'/></memory>", "<memory model='dimm'/>", True),
        ("<memory model='dimm'><alias name='ua-a'/></memory>", "<memory model='dimm'/>", False),
        ("<memory model='nvdimm'><target><label><size>1</size></label></target></memory>",
         "<memory model='nvdimm'><target><label><size>2</size></label></target></memory>", False),
        ("<memory model='virtio-pmem'><target><address base='0x1'/></target></memory>",
         "<memory model='virtio-pmem'><target><address base='0x2'/></target></memory>", False),
        ("<watchdog model='ib700' action='none'/>", "<watchdog model='ib700' action='reset'/>", True),
        ("<video><model type='vga' heads='1'/></video>", "<video><model type='vga'/></video>", True),
        ("<video><model type='vga'/></video>",
         "<video><model type='vga'><acceleration accel3d='yes'/></model></video>",
         False),
        ("<video/><graphics type='vnc' port='1'/>", "<video/><graphics type='vnc' port='2'/>", True),
        ("<video/>", "<video/><graphics type='vnc'/>", True),
        ("", "<graphics type='vnc'/>", False),
        ("<panic model='isa'><address type='isa' iobase='0x505'/></panic>",
         "<panic model='isa'><address type='isa' iobase='0x506'/></panic>", False),
        ("<hub type='usb'><address type='usb' bus='0' port='1'/></hub>",
         "<hub type='usb'><address type='usb' bus='0' port='2'/></hub>", True),
        ("<controller type='usb' index='0' ports='4'/>",
         "<controller type='usb' index='0' ports='8'/>", False),
        ("<controller type='scsi' index='0' ports='4'/>",
         "<controller type='scsi' index='0' ports='8'/>", True),
        ("<crypto model='virtio'/>", "", False),
        ("<lease><key>a</key></lease>", "", True),
        ("<disk><unheard-of/></disk>", "<disk/>", False),
        ("<x:rng xmlns:x='urn:x'/>", "", False),
    ],
)  # fmt: skip
def test_devices(old: str, new: str, is_stable: bool) -> None:
    """What makes a device another one for the guest, and what does not."""
    assert compare(domain(old), domain(new)).stable is is_stable
    assert compare(domain(new), domain(old)).stable is is_stable


def test_versions_of_libvirt_differ() -> None:
    """9.0 compares no block sizes, 11.4 and later compare queues of network cards."""
    blocks = domain(DISK), domain(DISK.replace("<target", "<blockio logical_block_size='4096'/><target"))
    card = CARD.format(1).replace("</interface>", "<driver queues='{}'/></interface>")
    queues = domain(card.format(2)), domain(card.format(4))

    assert compare(*blocks, libvirt=(9, 0, 0)).stable
    assert not compare(*blocks).stable
    assert compare(*queues).stable
    assert not compare(*queues, libvirt=(11, 4, 0)).stable


def test_what_libvirt_adds_by_itself_may_be_missing() -> None:
    """But not where an image has it in a place that it would not get anew."""
    usb = "<controller type='usb' index='0' model='piix3-uhci'/>"
    ide = "<controller type='ide' index='0'/>"
    full, short = domain(usb + ide, "pc-i440fx-10.0"), domain(ide, "pc-i440fx-10.0")

    assert told(full, short) == [("/domain/devices[1]/controller[1]", None, False)]
    assert told(short, full) == [(None, "/domain/devices[1]/controller[1]", False)]
    assert told(short, full, is_image=True) == told(short, full)
    assert told(full, short, is_image=True) == [("/domain/devices[1]/controller[1]", None, True)]
    assert compare(full, full, is_image=True).stable
    keyboard = "<input type='keyboard' bus='ps2'/>"
    assert compare(domain(keyboard), domain(""), is_image=True).stable


def test_modules_are_no_part_of_the_first_memory() -> None:
    """They are taken off before it is compared; a size that is none does no harm."""
    module = "<devices><memory model='dimm'><target><size>{}</size></target></memory></devices>"

    assert not compare(other("<memory>8</memory>"), domain("<memory>9</memory>" + module.format(1))).stable
    found = compare(
        domain("<memory>9</memory>" + module.format(1)), domain("<memory>9</memory>" + module.format(2))
    )
    assert [one.xpath for one in found.differences] == [
        "/domain/memory[1]/text()",
        "/domain/devices[1]/memory[1]/target[1]/size[1]/text()",
    ]
    odd = domain("<memory>9</memory>" + module.format("much"))
    assert compare(odd, deepcopy(odd)).stable


def test_passwords_are_never_told() -> None:
    """Neither of an attribute that changes, nor of an element that comes or goes."""
    one, two = "<graphics type='vnc' passwd='s3cret'/>", "<graphics type='vnc' passwd='hidden1'/>"
    text = "<graphics type='vnc'><passwd>hidden1</passwd></graphics>"
    documents = [
        domain("<video/>" + each) for each in (one, two, text, "", f"<unheard-of>{one}</unheard-of>")
    ]

    shown = [repr(compare(old, new)) for old in documents for new in documents if old is not new]

    assert not [text for text in shown if "s3cret" in text or "hidden1" in text]
    (difference,) = compare(documents[0], documents[1]).differences
    assert (difference.old, difference.new, difference.guest_visible) == ("*****", "*****", False)


def test_places_in_namespaces_lead_there() -> None:
    """Without a declaration of any prefix."""
    uri = "http://libvirt.org/schemas/domain/qemu/1.0"
    text = f"<q:commandline xmlns:q='{uri}'><q:arg value='{{}}'/></q:commandline>"
    old, new = other(text.format("a")), other(text.format("b"))

    (difference,) = compare(old, new).differences

    assert difference.xpath is not None
    assert _select(old, difference.xpath) == ["a"]
    assert difference.guest_visible is False
    marked = deepcopy(new)
    marked[-1].set("{urn:x}y", "1")
    (difference,) = compare(new, marked).differences
    assert difference.new_xpath is not None
    assert _select(marked, difference.new_xpath) == ["1"]
