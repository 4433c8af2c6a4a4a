"""Domain XML of small test guests, from a few values.

Source: https://libvirt.org/formatdomain.html; the elements are those that libvirt 9.0 and later take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from lxml import etree

#: Silent, no address randomisation, no CPU mitigations: emulated guests are up seconds earlier.
_KERNEL_ARGUMENTS: Final = "console=ttyS0 quiet loglevel=0 panic=-1 nokaslr mitigations=off tsc=reliable"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """One disk of a test guest."""

    path: Path
    #: Format of the file: raw or qcow2.
    driver: str = "raw"
    #: Name in the guest: vda is the first.
    target: str = "vda"
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """What a test guest is made of; one spec may be defined on several hosts, as the same domain."""

    name: str
    uuid: UUID = field(default_factory=uuid4)
    #: Memory of the guest, MiB.
    memory_mib: int = 128
    #: How much of it holds data that cannot be compressed, MiB; at least 64 MiB must be left for the kernel.
    fill_mib: int = 32
    vcpus: int = 1
    #: QEMU machine type: pc, q35, or a versioned one.
    machine: str = "pc"
    #: CPU model, the same on every host so that a save image restores anywhere.
    cpu: str = "qemu64"
    disks: tuple[DiskSpec, ...] = ()
    #: Whether the guest writes its counter to the first disk as well.
    writes_disk: bool = False
    title: str = ""
    description: str = ""
    #: XML for inside <metadata>, such as fleetsave's tags.
    metadata: str = ""
    #: XML for inside <devices>.
    devices: str = ""
    #: Start it with `virsh create`: no persistent definition, gone when it stops.
    transient: bool = False

    @property
    def kernel_arguments(self) -> str:
        """The kernel's command line, parameters of the guest's first process included."""
        needs_modules = bool(self.disks) or "virtio" in self.devices
        return (
            f"{_KERNEL_ARGUMENTS} fleetsave.fill={self.fill_mib} "
            f"fleetsave.modules={needs_modules:d} fleetsave.disk={self.writes_disk:d}"
        )


def format_domain(spec: GuestSpec, *, kernel: Path, initramfs: Path, serial: Path) -> str:
    """Return the domain XML of a test guest.

    Args:
        spec: the guest.
        kernel: file that QEMU loads as the kernel.
        initramfs: file that QEMU loads as the first root file system.
        serial: file that gets what the guest prints; appended to, never truncated, so it spans restores.
    """
    domain = etree.Element("domain", type="qemu")
    _add(domain, "name", spec.name)
    _add(domain, "uuid", str(spec.uuid))
    if spec.title:
        _add(domain, "title", spec.title)
    if spec.description:
        _add(domain, "description", spec.description)
    if spec.metadata:
        domain.append(etree.fromstring(f"<metadata>{spec.metadata}</metadata>"))
    _add(domain, "memory", str(spec.memory_mib), unit="MiB")
    _add(domain, "vcpu", str(spec.vcpus))
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=spec.machine)
    _add(system, "kernel", str(kernel))
    _add(system, "initrd", str(initramfs))
    _add(system, "cmdline", spec.kernel_arguments)
    _add(_add(domain, "features"), "acpi")
    _add(_add(domain, "cpu", mode="custom", match="exact"), "model", spec.cpu, fallback="forbid")
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _add(domain, event, "destroy")
    _add_devices(domain, spec, serial)
    return etree.tostring(domain, pretty_print=True, encoding="unicode")


def _add_devices(domain: etree._Element, spec: GuestSpec, serial: Path) -> None:
    devices = _add(domain, "devices")
    for disk in spec.disks:
        _add_disk(devices, disk)
    # Nothing that the guest does not use: each device costs start time and bytes in the image.
    _add(devices, "controller", type="usb", model="none")
    _add(devices, "memballoon", model="none")
    port = _add(devices, "serial", type="file")
    _add(port, "source", path=str(serial), append="on")
    _add(port, "target", port="0")
    devices.extend(_parse_fragment(spec.devices))


def _add_disk(devices: etree._Element, disk: DiskSpec) -> None:
    element = _add(devices, "disk", type="file", device="disk")
    _add(element, "driver", name="qemu", type=disk.driver)
    _add(element, "source", file=str(disk.path))
    _add(element, "target", dev=disk.target, bus="virtio")
    if disk.readonly:
        _add(element, "readonly")


def _parse_fragment(text: str) -> Sequence[etree._Element]:
    return list(etree.fromstring(f"<devices>{text}</devices>"))


def _add(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, tag, attrib=attributes)
    element.text = text
    return element
