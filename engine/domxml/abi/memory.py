"""Tell what the guest sees of its memory: how much, in which cells, on which modules.

Source: libvirt src/conf/domain_conf.c, virDomainMemtuneCheckABIStability(),
virDomainMemoryDefCheckABIStability(), virDomainDefGetMemoryInitial(); src/conf/numa_conf.c,
virDomainNumaCheckABIStability(); src/qemu/qemu_domain.c, qemuDomainABIStabilityCheck().
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from engine.domxml.abi.device import ADDRESS, SHARED, UNCHECKED
from engine.domxml.abi.table import Element, Group, Table, Visible, free, same
from engine.domxml.abi.values import (
    Convert,
    count,
    cpus,
    default,
    hexadecimal,
    kibibytes,
    plain,
    present,
    size,
    text_at,
    uuid,
)

_USER_ALIAS: Final = "ua-"
_SIZE: Final = "the guest sees how large the module is"
_BACKING: Final = "how the host provides the memory"


def _initial(domain: Element) -> Hashable:
    """Return the memory that the guest starts with: all but that on modules."""
    total = size("memory")(domain)
    modules = [size("target/size")(module) for module in domain.iterfind("devices/memory")]
    numbers = [amount for amount in modules if isinstance(amount, int)]
    if isinstance(total, int) and len(numbers) == len(modules):
        return total - sum(numbers)
    return total, tuple(modules)


def _current(domain: Element) -> Hashable:
    """Return what the balloon leaves to the guest; all of it where nothing else is said."""
    current, total = size("currentMemory")(domain), size("memory")(domain)
    if isinstance(current, int) and isinstance(total, int):
        return total if current == 0 else min(current, total)
    return total if current is None else current


def _of(model: str, path: str, convert: Convert, *, reason: str) -> Visible:
    """Return the rule for a value of memory devices whose model begins in a certain way."""

    def read(module: Element) -> Hashable:
        return convert(text_at(module, path)) if module.get("model", "").startswith(model) else None

    return Visible(paths=(path,), read=read, reason=reason, rest=UNCHECKED)


def _size_of(model: str, path: str) -> Visible:
    amount = size(path)

    def read(module: Element) -> Hashable:
        return amount(module) if module.get("model") == model else None

    return Visible(paths=(path, f"{path}/@unit"), read=read, reason=_SIZE, rest=UNCHECKED)


def _user_alias(module: Element) -> Hashable:
    """Return the alias that a person gave; libvirt's own are not in the XML of images."""
    name = text_at(module, "alias/@name") or ""
    return name if name.startswith(_USER_ALIAS) else None


MODULE: Final = Table(
    visible=(
        same("@model", "the guest would have another kind of memory"),
        same("target/node", "the guest finds the memory in this cell", count),
        Visible(paths=("target/size", "target/size/@unit"), read=size("target/size"), reason=_SIZE),
        _size_of("nvdimm", "target/label/size"),
        _size_of("nvdimm", "source/alignsize"),
        _of("nvdimm", "source/pmem", present, reason="the guest trusts its writes to last"),
        _of("nvdimm", "target/readonly", present, reason="the guest may write to one, not to the other"),
        _of("nvdimm", "uuid", uuid, reason="the guest knows the module by its UUID"),
        _size_of("virtio-mem", "target/block"),
        _size_of("virtio-mem", "target/requested"),
        _of("virtio-mem", "target/@dynamicMemslots", plain, reason="the guest sees its slots"),
        _of("virtio-", "target/address/@base", hexadecimal, reason="the guest finds the memory there"),
        Visible(
            paths=("alias/@name",), read=_user_alias, reason="the memory is stored under this name",
            rest="libvirt's own name of the device",
        ),
        *ADDRESS,
    ),
    free=(
        *free(_BACKING, "source", "@access", "@discard"),
        *free("how much of it the guest has plugged in now", "target/current"),
        *SHARED,
    ),
)  # fmt: skip
_DISTANCE: Final = Table(
    visible=(
        same("@id", "the guest sees how far its cells are apart", count),
        same("@value", "the guest sees how far its cells are apart", count),
    )
)


def _by_id(elements: Sequence[Element]) -> Sequence[Element]:
    def place(element: Element) -> int:
        number = count(element.get("id"))
        return number if isinstance(number, int) else -1

    return sorted(elements, key=place)


def _cell_memory(cell: Element) -> Hashable:
    text = cell.get("memory")
    return None if text is None else kibibytes(text, cell.get("unit", "KiB"))


CELL: Final = Table(
    visible=(
        same("@id", "the guest sees its cells", count),
        same("@cpus", "the guest sees which processors are in the cell", cpus),
        Visible(
            paths=("@memory", "@unit"),
            read=_cell_memory,
            reason="the guest sees how much memory the cell has",
        ),
    ),
    free=(*free(_BACKING, "@memAccess", "@discard"), *free(UNCHECKED, "cache")),
    groups=(Group(path="distances/sibling", table=_DISTANCE, noun="distance", order=_by_id),),
)
AMOUNT: Final[tuple[Visible, ...]] = (
    Visible(
        paths=("memory", "memory/@unit"), read=_initial,
        reason="the guest would have another amount of memory",
    ),
    Visible(
        paths=("currentMemory", "currentMemory/@unit"), read=_current,
        reason="the guest's balloon leaves it this much",
    ),
    Visible(
        paths=("maxMemory", "maxMemory/@unit"), read=size("maxMemory"),
        reason="the guest sees how much memory can be plugged in",
    ),
    same("maxMemory/@slots", "the guest sees how many modules can be plugged in", count),
    same("memoryBacking/source/@type", "the memory is stored under another name", default("")),
)  # fmt: skip
CELLS: Final = Group(path="cpu/numa/cell", table=CELL, noun="NUMA cell", order=_by_id)
MODULES: Final = Group(path="devices/memory", table=MODULE, noun="memory device")
