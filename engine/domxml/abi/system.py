"""Tell what the guest sees of its machine type, firmware tables and clocks.

Source: libvirt src/conf/domain_conf.c, virDomainTimerDefCheckABIStability(); src/util/virsysinfo.c,
virSysinfoIsEqual().
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from engine.domxml.abi.device import UNCHECKED
from engine.domxml.abi.table import Element, Group, Table, Visible, free, same
from engine.domxml.abi.values import Convert, count, find_at, own_text, plain

_READS: Final = "the guest reads it from its firmware"
_ENTRIES: Final = {
    "bios": ("vendor", "version", "date", "release"),
    "system": ("manufacturer", "product", "version", "serial", "uuid", "sku", "family"),
    "baseBoard": ("manufacturer", "product", "version", "serial", "asset", "location"),
    "chassis": ("manufacturer", "version", "serial", "asset", "sku"),
}


def _entries(block: Element, known: tuple[str, ...]) -> Hashable:
    """Return the entries that libvirt compares; the last of a name wins."""
    return frozenset(
        {
            name: own_text(entry)
            for entry in block.iterfind("entry")
            if (name := entry.get("name", "")) in known
        }.items()
    )


def _block(name: str) -> Callable[[Element], Hashable]:
    known = _ENTRIES[name]

    def read(information: Element) -> Hashable:
        found = find_at(information, name)
        return None if found is None else _entries(found, known)

    return read


_BOARD: Final = Table(
    visible=(
        Visible(
            paths=("entry/**",),
            read=lambda board: _entries(board, _ENTRIES["baseBoard"]),
            reason=_READS,
            rest=UNCHECKED,
        ),
    )
)
INFORMATION: Final = Table(
    visible=(
        same("@type", "the guest would have other tables"),
        *(
            Visible(paths=(f"{name}/**",), read=_block(name), reason=_READS, rest=UNCHECKED)
            for name in ("bios", "system", "chassis")
        ),
    ),
    free=free(UNCHECKED, "oemStrings", "entry"),
    groups=(Group(path="baseBoard", table=_BOARD, noun="base board"),),
)


def _of_tsc(attribute: str, convert: Convert) -> Callable[[Element], Hashable]:
    def read(timer: Element) -> Hashable:
        return convert(timer.get(attribute)) if timer.get("name") == "tsc" else None

    return read


TIMER: Final = Table(
    visible=(
        same("@name", "the guest would have another timer"),
        same("@present", "the guest would have the timer, or not"),
        Visible(
            paths=("@frequency",), read=_of_tsc("frequency", count),
            reason="the guest has measured this clock", rest=UNCHECKED,
        ),
        Visible(
            paths=("@mode",), read=_of_tsc("mode", plain),
            reason="the guest reads this clock", rest=UNCHECKED,
        ),
    ),
    free=free("how the host makes up for lost ticks", "@tickpolicy", "@track", "catchup"),
)  # fmt: skip
VISIBLE: Final[tuple[Visible, ...]] = (
    same("os/type", "the guest would have another machine"),
    same("os/type/@arch", "the guest would have another machine"),
    same("os/type/@machine", "the guest would have another machine"),
    same("os/smbios/@mode", "the guest would have other tables"),
)
FREE: Final = (
    *free(
        "only a guest that starts anew looks at it", "os/boot", "os/bootmenu", "os/bios", "os/kernel",
        "os/initrd",
        "os/cmdline", "os/loader", "os/nvram", "os/firmware", "os/@firmware", "os/dtb", "os/acpi", "os/shim",
    ),
    *free("how the host sets the guest's clock", "clock"),
)  # fmt: skip
GROUPS: Final = (
    Group(path="clock/timer", table=TIMER, noun="timer", key=lambda timer: timer.get("name")),
    Group(path="sysinfo", table=INFORMATION, noun="set of firmware tables"),
)
