"""Tell what the guest sees of controllers, host devices, hubs, redirected devices and IOMMUs.

Source: libvirt src/conf/domain_conf.c, virDomainControllerDefCheckABIStability(),
virDomainControllerInsertPreAlloced(), virDomainHostdevDefCheckABIStability();
src/qemu/qemu_domain.c, qemuDomainDefFormatBufInternal(): what a migratable dump leaves out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

from engine.domxml.abi.device import ADDRESS, BACKEND, SHARED, UNCHECKED, VIRTIO
from engine.domxml.abi.table import Element, Group, Table, Visible, free, same
from engine.domxml.abi.values import count, default, find_at, hexadecimal, number, plain

_USER_ALIAS: Final = "ua-"
#: Type -> models.
_IMPLIED: Final[Mapping[str, frozenset[str | None]]] = {
    "usb": frozenset({None, "piix3-uhci"}),
    "pci": frozenset({"pci-root"}),
}


def order_controllers(controllers: Sequence[Element]) -> Sequence[Element]:
    """Return controllers as libvirt keeps them: by type as they first appear, by index, companions last."""
    types: dict[str | None, int] = {}
    for controller in controllers:
        types.setdefault(controller.get("type"), len(types))

    def place(controller: Element) -> tuple[int, int, bool]:
        index = count(controller.get("index"))
        return (
            types[controller.get("type")],
            index if isinstance(index, int) else -1,
            find_at(controller, "master") is not None,
        )

    return sorted(controllers, key=place)


def pick_implied(controllers: Sequence[Element]) -> dict[str, Element]:
    """Return the controllers that every "pc" machine has, where they are the only ones of their type."""
    if not controllers or not _is_i440fx(controllers[0]):
        return {}
    found: dict[str, Element] = {}
    for kind, models in _IMPLIED.items():
        ones = [controller for controller in controllers if controller.get("type") == kind]
        if len(ones) == 1 and _is_default(ones[0], models):
            found[kind] = ones[0]
    return found


def _is_default(controller: Element, models: frozenset[str | None]) -> bool:
    return (
        count(controller.get("index")) == 0
        and controller.get("model") in models
        and find_at(controller, "pcihole64") is None
        and not _has_user_alias(controller)
    )


def _is_i440fx(device: Element) -> bool:
    os_type = device.getroottree().getroot().find("os/type")
    machine = "" if os_type is None else os_type.get("machine", "")
    return machine == "pc" or machine.startswith(("pc-i440fx", "pc-0.", "pc-1."))


def _has_user_alias(device: Element) -> bool:
    alias = find_at(device, "alias")
    return alias is not None and alias.get("name", "").startswith(_USER_ALIAS)


def _ports(controller: Element) -> Hashable:
    return number(controller.get("ports")) if controller.get("type") in {"usb", "virtio-serial"} else None


def _vectors(controller: Element) -> Hashable:
    return number(controller.get("vectors")) if controller.get("type") == "virtio-serial" else None


def _kind(device: Element) -> Hashable:
    """Return the type of a host device; libvirt lets a function of a card stand for a mediated device."""
    return "pci" if device.get("type") == "mdev" else device.get("type")


CONTROLLER: Final = Table(
    visible=(
        same("@type", "the guest would have another controller"),
        same("@index", "devices are attached to the controller by its index", number),
        same("@model", "the guest would have another model of controller"),
        Visible(paths=("@ports",), read=_ports, reason="the guest sees so many ports", rest=UNCHECKED),
        Visible(
            paths=("@vectors",),
            read=_vectors,
            reason="the guest's driver uses so many vectors",
            rest=UNCHECKED,
        ),
        *VIRTIO,
        *ADDRESS,
    ),
    free=(
        *free("how the host reads and writes", "driver"),
        *free(UNCHECKED, "target", "model", "pcihole64", "master", "@maxGrantFrames", "@maxEventChannels"),
        *SHARED,
    ),
)
HOST_DEVICE: Final = Table(
    visible=(
        same("@mode", "the guest would have another kind of device", default("subsystem")),
        Visible(paths=("@type",), read=_kind, reason="the guest would have another kind of device",
                rest="libvirt lets a PCI device and a mediated one stand for each other"),
        *ADDRESS,
    ),
    free=(
        *free("which of the host's devices it is", "source"),
        *free("how the host hands the device over", "driver", "@managed", "@sgio", "@rawio", "@missing"),
        *free(UNCHECKED, "@model", "@display", "@ramfb", "readonly", "shareable", "teaming"),
        *SHARED,
    ),
)  # fmt: skip
HUB: Final = Table(visible=(same("@type", "the guest would have another hub"), *ADDRESS), free=SHARED)
REDIRECTED: Final = Table(
    visible=(
        same("@bus", "the guest would find the device on another bus", default("usb")),
        same("@type", "libvirt compares the type of the backend here"),
        *ADDRESS,
    ),
    free=(*free(BACKEND, "source", "protocol", "log"), *SHARED),
)
FILTER_RULE: Final = Table(
    visible=(
        same("@class", "the filter would let other devices through", default("-1", hexadecimal)),
        same("@vendor", "the filter would let other devices through", default("-1", hexadecimal)),
        same("@product", "the filter would let other devices through", default("-1", hexadecimal)),
        same("@version", "the filter would let other devices through", default("-1")),
        same("@allow", "the filter would let other devices through"),
    )
)
FILTER: Final = Table(groups=(Group(path="usbdev", table=FILTER_RULE, noun="rule of the USB filter"),))
IOMMU: Final = Table(
    visible=(
        same("@model", "the guest would have another IOMMU"),
        *(
            same(f"driver/@{option}", "the guest sees this option of its IOMMU", plain)
            for option in ("intremap", "caching_mode", "eim", "iotlb", "dma_translation")
        ),
        same("driver/@aw_bits", "the guest sees the IOMMU's address width", count),
        *ADDRESS,
    ),
    free=SHARED,
)
BUS: Final = (
    Group(
        path="devices/controller", table=CONTROLLER, noun="controller", order=order_controllers,
        key=lambda controller: (
            controller.get("type"), count(controller.get("index")), controller.get("model"),
            find_at(controller, "master") is not None,
        ),
        implied=pick_implied,
    ),
    Group(path="devices/hostdev", table=HOST_DEVICE, noun="host device"),
    Group(path="devices/hub", table=HUB, noun="hub"),
    Group(path="devices/redirdev", table=REDIRECTED, noun="redirected device"),
    Group(path="devices/redirfilter", table=FILTER, noun="USB filter"),
    Group(path="devices/iommu", table=IOMMU, noun="IOMMU"),
)  # fmt: skip
