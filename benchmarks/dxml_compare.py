"""Measure how long the comparison of two large domain XMLs takes: `dxml_compare.py [DEVICES]`.

In the second document things have moved, come in another order, or are missing.
"""

from __future__ import annotations

import sys
import time
from typing import Final

from lxml import etree

from engine.domxml.compare import Comparison, compare
from engine.domxml.document import parse_domain_xml

#: Devices of each kind unless told.
DEVICES: Final = 1000
_ROUNDS: Final = 5


def main() -> None:
    """Print the best of some rounds for each kind of document."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else DEVICES
    disks, cards = [_disk(number) for number in range(count)], [_card(number) for number in range(count)]
    moved = [disk.replace("/srv/old/", "/srv/new/") for disk in disks]
    cases = (
        ("equal", disks + cards, disks + cards),
        ("disks elsewhere, in another order", disks + cards, moved[::-1] + cards),
        ("cards in another order", disks + cards, disks + cards[::-1]),
        ("one disk and one card less", disks + cards, disks[1:] + cards[1:]),
        ("nothing in common", disks, cards),
    )
    for name, old, new in cases:
        before, after = _document(old), _document(new)
        seconds, found = min((_measure(before, after) for _ in range(_ROUNDS)), key=lambda one: one[0])
        refused = sum(one.guest_visible for one in found.differences)
        print(
            f"{name:36} {seconds:6.3f} s  {refused:5} refused  {len(found.differences) - refused:5} allowed"
        )


def _measure(old: etree._Element, new: etree._Element) -> tuple[float, Comparison]:
    begun = time.perf_counter()
    found = compare(old, new)
    return time.perf_counter() - begun, found


def _document(devices: list[str]) -> etree._Element:
    text = "".join(devices)
    return parse_domain_xml(
        f"<domain type='kvm'><name>large</name><devices>{text}</devices></domain>", where="benchmark"
    )


def _disk(number: int) -> str:
    """Return a disk as libvirt dumps it."""
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' io='native'/>"
        f"<source file='/srv/old/{number}.qcow2'/><target dev='{_name(number)}' bus='virtio'/>"
        f"<serial>S-{number}</serial><boot order='{number + 1}'/>{_address(number)}</disk>"
    )


def _card(number: int) -> str:
    """Return a network card as libvirt dumps it."""
    mac = f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"
    return (
        f"<interface type='network'><mac address='{mac}'/><source network='default'/><model type='virtio'/>"
        f"<driver name='vhost' queues='2'/>{_address(number)}</interface>"
    )


def _address(number: int) -> str:
    place = f"bus='0x{number // 32:02x}' slot='0x{number % 32:02x}'"
    return f"<address type='pci' domain='0x0000' {place} function='0x0'/>"


def _name(number: int) -> str:
    """Return the name of a disk: vda, ..., vdz, vdaa."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"vd{letters}"


if __name__ == "__main__":
    main()
