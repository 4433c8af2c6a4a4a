"""Tell what the guest sees of watchdogs, memory balloons, random numbers, TPMs and other small devices.

Source: libvirt src/conf/domain_conf.c, virDomainWatchdogDefCheckABIStability() and its neighbours.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from engine.domxml.abi.device import ADDRESS, BACKEND, SHARED, UNCHECKED, VIRTIO
from engine.domxml.abi.table import Element, Group, Table, Visible, free, same
from engine.domxml.abi.values import count, default, find_at, present, size, text_at


def pick_watchdog(watchdogs: Sequence[Element]) -> dict[str, Element]:
    """Return the watchdog that every machine of type "q35" has, where it is the last as libvirt adds it."""
    found = [one for one in watchdogs if one.get("model") == "itco"]
    return {"itco": found[0]} if len(found) == 1 and found[0] is watchdogs[-1] else {}


def _is_emulated(tpm: Element) -> bool:
    return text_at(tpm, "backend/@type") == "emulator"


def _tpm_version(tpm: Element) -> Hashable:
    return text_at(tpm, "backend/@version") if _is_emulated(tpm) else None


def _pcr_banks(tpm: Element) -> Hashable:
    banks = find_at(tpm, "backend/active_pcr_banks")
    if banks is None or not _is_emulated(tpm):
        return frozenset()
    return frozenset(str(bank.tag) for bank in banks.iterchildren("*"))


WATCHDOG: Final = Table(
    visible=(same("@model", "the guest would have another watchdog"), *ADDRESS),
    free=(*free("what the host does when the guest hangs", "@action"), *SHARED),
)
BALLOON: Final = Table(
    visible=(
        same("@model", "the guest would have another memory balloon"),
        same("@autodeflate", "the guest's driver has agreed on it"),
        same("@freePageReporting", "the guest's driver has agreed on it"),
        *VIRTIO,
        *ADDRESS,
    ),
    free=(*free("how often the host asks", "stats"), *SHARED),
)
RANDOM: Final = Table(
    visible=(same("@model", "the guest would have another model of device"), *VIRTIO, *ADDRESS),
    free=(*free(BACKEND, "backend", "rate"), *SHARED),
)
PANIC: Final = Table(visible=(same("@model", "the guest would have another device"), *ADDRESS), free=SHARED)
TPM: Final = Table(
    visible=(
        same("backend/@type", "the guest's keys would be in another TPM"),
        same("@model", "the guest would have another model of TPM"),
        Visible(
            paths=("backend/@version",), read=_tpm_version,
            reason="the guest would have another version of TPM", rest=UNCHECKED,
        ),
        Visible(
            paths=("backend/active_pcr_banks/**",), read=_pcr_banks,
            reason="the guest has measured into these banks", rest=UNCHECKED,
        ),
        *ADDRESS,
    ),
    free=(*free("where the host keeps the TPM's state", "backend"), *SHARED),
)  # fmt: skip
SHARED_MEMORY: Final = Table(
    visible=(
        same("@role", "the guest would own the memory, or not", default("master")),
        same("model/@type", "the guest would have another model of device"),
        Visible(paths=("size", "size/@unit"), read=size("size", "B"), reason="the guest sees its size"),
        same("server", "the guest would have another kind of shared memory", present),
        same("msi", "the guest's driver uses these interrupts", present),
        same("msi/@vectors", "the guest's driver uses these interrupts", count),
        same("msi/@ioeventfd", "the guest's driver uses these interrupts"),
        *ADDRESS,
    ),
    free=(*free("which memory of the host it is", "@name", "server/@path"), *SHARED),
)
PERSISTENT_STORE: Final = Table(
    visible=(
        same("@backend", "the guest would have another kind of store"),
        Visible(paths=("size", "size/@unit"), read=size("size", "KiB"), reason="the guest sees its size"),
        *ADDRESS,
    ),
    free=(*free("where the host keeps the content", "path"), *SHARED),
)
#: libvirt compares nothing of it, but its address may need controllers that the guest does not have.
CRYPTO: Final = Table(
    visible=(same("@model", "the guest would have another model of device"), *VIRTIO, *ADDRESS),
    free=(*free(BACKEND, "@type", "backend"), *SHARED),
)
EXTRAS: Final = (
    Group(
        path="devices/watchdog", table=WATCHDOG, noun="watchdog", implied=pick_watchdog, is_implied_last=True
    ),
    Group(path="devices/memballoon", table=BALLOON, noun="memory balloon"),
    Group(path="devices/rng", table=RANDOM, noun="random number generator"),
    Group(path="devices/panic", table=PANIC, noun="panic device"),
    Group(path="devices/tpm", table=TPM, noun="TPM"),
    Group(path="devices/shmem", table=SHARED_MEMORY, noun="shared memory"),
    Group(path="devices/crypto", table=CRYPTO, noun="crypto device"),
    Group(path="devices/pstore", table=PERSISTENT_STORE, noun="persistent store"),
)
