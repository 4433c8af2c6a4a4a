"""Tell the fields that all devices share: their address in the guest, options of virtio, the host's end.

Source: libvirt src/conf/domain_conf.c, virDomainDeviceInfoCheckABIStability(),
virDomainVirtioOptionsCheckABIStability().
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final

from engine.domxml.abi.table import Element, Free, Visible, free, same
from engine.domxml.abi.values import Convert, count, default, find_at, hexadecimal, number, present

#: Said of what the guest may notice although libvirt lets it pass.
UNCHECKED: Final = "libvirt does not compare it, though the guest may notice"
BACKEND: Final = "the host's end of the device"

# Of each type of address what libvirt compares; of all others only the type.
_PARTS: Final[Mapping[str, Mapping[str, Convert]]] = {
    "pci": {part: default("0", number) for part in ("domain", "bus", "slot", "function")},
    "drive": {"controller": count, "bus": count, "unit": count},
    "virtio-serial": {"controller": count, "bus": count, "port": count},
    "ccid": {"controller": count, "slot": count},
    "isa": {"iobase": hexadecimal, "irq": hexadecimal},
    "dimm": {"slot": count, "base": hexadecimal},
    "ccw": {"cssid": number, "ssid": number, "devno": number},
}


def _read_address(device: Element) -> Hashable:
    address = find_at(device, "address")
    if address is None:
        return None
    kind = address.get("type", "")
    return (
        kind,
        *(convert(address.get(part)) for part, convert in _PARTS.get(kind, {}).items()),
    )


ADDRESS: Final[tuple[Visible, ...]] = (
    Visible(
        paths=("address/**",),
        read=_read_address,
        reason="the guest would find the device at another address",
        rest=UNCHECKED,
    ),
    same("acpi/@index", "the guest names the device by its ACPI index", count),
)
VIRTIO: Final[tuple[Visible, ...]] = (
    # Without any of the options, too.
    same("driver", "libvirt refuses a <driver> where there was none, or none where there was one", present),
    *(
        same(f"driver/@{option}", "the guest's driver has agreed on this virtio option")
        for option in ("iommu", "ats", "packed", "page_per_vq")
    ),
)
#: What every device may have.
SHARED: Final[tuple[Free, ...]] = (
    *free("libvirt's own name of the device", "alias"),
    *free("only a guest that starts anew looks at it", "boot"),
    *free(UNCHECKED, "rom"),
)
#: What the host does with the bytes of a port.
CHARACTER_BACKEND: Final[tuple[Free, ...]] = free(
    BACKEND, "@type", "source", "protocol", "log", "@tty", "target/@state"
)
