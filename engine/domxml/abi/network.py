"""Tell what the guest sees of network cards and of its socket to the host.

Source: libvirt src/conf/domain_conf.c, virDomainNetDefCheckABIStability(),
virDomainVsockDefCheckABIStability().
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from engine.domxml.abi.device import ADDRESS, SHARED, UNCHECKED, VIRTIO
from engine.domxml.abi.table import Element, Group, Table, Version, Visible, free, same
from engine.domxml.abi.values import count, mac, text_at

#: libvirt compares the queues of network cards from here on.
_QUEUES_SINCE: Final[Version] = (11, 4, 0)


def _is_host_device(interface: Element) -> Hashable:
    return interface.get("type") == "hostdev"


INTERFACE: Final = Table(
    visible=(
        same("mac/@address", "the guest knows the card by its address", mac),
        same("model/@type", "the guest would have another model of card"),
        same("mtu/@size", "the guest sees how large packets may be", count),
        Visible(
            paths=("@type",),
            read=_is_host_device,
            reason="one is a device of the host itself",
            rest="which network of the host it is",
        ),
        same("driver/@queues", "the guest's driver uses so many queues", count, since=_QUEUES_SINCE),
        *VIRTIO,
        *ADDRESS,
    ),
    free=(
        *free("which network of the host it is", "source", "target", "virtualport", "vlan", "portForward"),
        *free(
            "which network of the host it is", "actual", "ip", "route", "port", "@managed", "backenddomain"
        ),
        *free("how the host handles packets", "backend", "bandwidth", "filterref", "coalesce", "script"),
        *free("how the host handles packets", "downscript", "tune", "@trustGuestRxFilters", "mac/@check"),
        *free("how the host handles packets", "mac/@type"),
        *free(UNCHECKED, "driver", "link", "teaming", "guest"),
        *SHARED,
    ),
)
SOCKET: Final = Table(
    visible=(same("@model", "the guest would have another model of device"), *VIRTIO, *ADDRESS),
    free=(*free("the host's number of the guest", "cid"), *SHARED),
)
NETWORK: Final = (
    Group(
        path="devices/interface", table=INTERFACE, noun="network card",
        key=lambda interface: mac(text_at(interface, "mac/@address")),
    ),
    Group(path="devices/vsock", table=SOCKET, noun="socket to the host"),
)  # fmt: skip
