"""Put the tables together for a whole domain.

Source: libvirt src/conf/domain_conf.c, virDomainDefCheckABIStabilityFlags().
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from engine.domxml.abi import (
    bus,
    display,
    extras,
    features,
    memory,
    network,
    ports,
    processor,
    storage,
    system,
)
from engine.domxml.abi.device import UNCHECKED
from engine.domxml.abi.table import Element, Table, Visible, free, same
from engine.domxml.abi.values import find_at, own_text, uuid

_QEMU: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
_RUNS: Final = "how the host runs the guest"


def _generation(domain: Element) -> Hashable:
    found = find_at(domain, "genid")
    return None if found is None else uuid(own_text(found))


def _lacks_video(domain: Element) -> Hashable:
    """Tell whether libvirt would add a video card, since the domain has a display."""
    return find_at(domain, "devices/graphics") is not None and find_at(domain, "devices/video") is None


DOMAIN: Final = Table(
    visible=(
        same("@type", "the guest would run on another hypervisor"),
        same("uuid", "it is another domain", uuid),
        same("name", "a domain may not be renamed this way"),
        Visible(paths=("genid",), read=_generation, reason="the guest would take itself for a copy"),
        Visible(paths=("devices/video",), read=_lacks_video, reason="libvirt adds a video card to a display"),
        # Not of libvirt's check: no image of one kind can be restored to the other.
        same("launchSecurity/@type", "the guest's memory is encrypted, or is not"),
        *memory.AMOUNT,
        *processor.VISIBLE,
        *system.VISIBLE,
        *features.VISIBLE,
    ),
    free=(
        *free("libvirt's number of the run", "@id"),
        *free("words for people and programs", "title", "description", "metadata"),
        *free(
            "what the host does when the guest ends", "on_poweroff", "on_reboot", "on_crash", "on_lockfailure"
        ),
        *free(
            _RUNS, "devices/emulator", "memoryBacking", "memtune", "blkiotune", "resource", "seclabel", "perf"
        ),
        *free(_RUNS, "throttlegroups", "bootloader", "bootloader_args", "idmap"),
        *free(UNCHECKED, "pm", "keywrap", "launchSecurity"),
        *free("the host's end of the display", "devices/graphics", "devices/audio"),
        *free("nothing in the guest", "devices/lease"),
        *free(
            UNCHECKED,
            *(f"{{{_QEMU}}}{name}" for name in ("commandline", "override", "capabilities", "deprecation")),
        ),
        *processor.FREE,
        *system.FREE,
        *features.FREE,
    ),
    groups=(
        memory.CELLS,
        processor.FEATURES,
        *system.GROUPS,
        *storage.STORAGE,
        *bus.BUS,
        *network.NETWORK,
        *display.DISPLAY,
        *ports.PORTS,
        *extras.EXTRAS,
        memory.MODULES,
    ),
)
