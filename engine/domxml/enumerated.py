"""Name the devices whose kinds libvirt enumerates for a host, and where a domain XML asks for them.

Source: libvirt src/qemu/qemu_capabilities.c, virQEMUCapsFillDomainCaps(): a kind that is
never listed there although it works (hostdev mdev, channels to files) is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Enumerated:
    """One list of kinds."""

    #: Where the list is in <domainCapabilities>: the element that holds it, and the list's name.
    parent: str
    enum: str
    #: XPath of the values in a <domain>.
    wanted: str
    #: What people call it.
    words: str
    #: Values that libvirt lists where the host has them; others say nothing.
    judged: frozenset[str]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENUMERATED: Final[Mapping[str, Enumerated]] = {
    "disk.bus": Enumerated(
        parent="devices/disk",
        enum="bus",
        wanted="devices/disk/target/@bus",
        words="disk bus",
        judged=_words("ide fdc scsi virtio usb sata"),
    ),
    "disk.device": Enumerated(
        parent="devices/disk",
        enum="diskDevice",
        wanted="devices/disk/@device",
        words="disk device",
        judged=_words("disk cdrom floppy lun"),
    ),
    "graphics.type": Enumerated(
        parent="devices/graphics",
        enum="type",
        wanted="devices/graphics/@type",
        words="graphics",
        judged=_words("vnc spice egl-headless dbus"),
    ),
    "video.model": Enumerated(
        parent="devices/video",
        enum="modelType",
        wanted="devices/video/model/@type",
        words="video model",
        judged=_words("vga cirrus vmvga qxl virtio bochs ramfb"),
    ),
    "rng.model": Enumerated(
        parent="devices/rng",
        enum="model",
        wanted="devices/rng/@model",
        words="rng model",
        judged=_words("virtio virtio-transitional virtio-non-transitional"),
    ),
    "rng.backend": Enumerated(
        parent="devices/rng",
        enum="backendModel",
        wanted="devices/rng/backend/@model",
        words="rng backend",
        judged=_words("random egd builtin"),
    ),
    "tpm.model": Enumerated(
        parent="devices/tpm",
        enum="model",
        wanted="devices/tpm/@model",
        words="tpm model",
        judged=_words("tpm-tis tpm-crb tpm-spapr"),
    ),
    "tpm.backend": Enumerated(
        parent="devices/tpm",
        enum="backendModel",
        wanted="devices/tpm/backend/@type",
        words="tpm backend",
        judged=_words("passthrough emulator external"),
    ),
    "filesystem.driver": Enumerated(
        parent="devices/filesystem",
        enum="driverType",
        wanted="devices/filesystem/driver/@type",
        words="filesystem driver",
        judged=_words("path virtiofs"),
    ),
    "hostdev.type": Enumerated(
        parent="devices/hostdev",
        enum="subsysType",
        wanted="devices/hostdev[@mode='subsystem']/@type",
        words="host device",
        judged=_words("usb pci scsi"),
    ),
    "redirdev.bus": Enumerated(
        parent="devices/redirdev",
        enum="bus",
        wanted="devices/redirdev/@bus",
        words="redirected device bus",
        judged=_words("usb"),
    ),
    "channel.type": Enumerated(
        parent="devices/channel",
        enum="type",
        wanted="devices/channel/@type",
        words="channel",
        judged=_words("spicevmc qemu-vdagent dbus"),
    ),
    "crypto.backend": Enumerated(
        parent="devices/crypto",
        enum="backendModel",
        wanted="devices/crypto/backend/@model",
        words="crypto backend",
        judged=_words("builtin lkcf"),
    ),
    "interface.backend": Enumerated(
        parent="devices/interface",
        enum="backendType",
        wanted="devices/interface/backend/@type",
        words="interface backend",
        judged=_words("passt"),
    ),
    "memory.source": Enumerated(
        parent="memoryBacking",
        enum="sourceType",
        wanted="memoryBacking/source/@type",
        words="memory source",
        judged=_words("file anonymous memfd"),
    ),
    "loader.type": Enumerated(
        parent="os/loader",
        enum="type",
        wanted="os/loader/@type",
        words="firmware type",
        judged=_words("rom pflash"),
    ),
}
