"""Read from domain XML what people ask of an image: how large, which machine, which processor, which secrets.

Source: https://libvirt.org/formatdomain.html; units of src/util/virutil.c, virScaleInteger().
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lxml import etree

#: What stands where a password was.
HIDDEN: Final = "*****"
#: Attributes and elements whose value nobody may read: passwords of displays, cookies of disks that come
#: over HTTP. libvirt has no others: its disks name secrets by UUID.
SECRETS: Final = frozenset({"passwd", "password", "cookie"})
_UNITS: Final = {
    "b": 1, "byte": 1, "bytes": 1,
    "k": 2**10, "kib": 2**10, "m": 2**20, "mib": 2**20, "g": 2**30, "gib": 2**30, "t": 2**40, "tib": 2**40,
    "p": 2**50, "pib": 2**50, "e": 2**60, "eib": 2**60,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15, "eb": 10**18,
}  # fmt: skip
#: Characters of a number of bytes at most: anything longer is no memory size.
_DIGITS_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """The guest's machine, as far as the XML says."""

    #: None where the XML does not say, or not in words that libvirt takes.
    memory_bytes: int | None
    vcpus: int | None
    #: Such as "pc-q35-10.0"; empty where the XML leaves it to the hypervisor.
    machine: str
    #: Such as "x86_64".
    architecture: str
    #: The CPU model, or the mode where there is none, such as "host-passthrough".
    cpu: str


def machine_facts(root: etree._Element) -> MachineFacts:
    """Return what a <domain> element says of the machine."""
    os_type = root.find("os/type")
    memory = root.find("memory")
    cpu = root.find("cpu")
    return MachineFacts(
        memory_bytes=None if memory is None else scaled_bytes(memory.text or "", memory.get("unit", "KiB")),
        vcpus=_number(root.findtext("vcpu") or ""),
        machine="" if os_type is None else os_type.get("machine", ""),
        architecture="" if os_type is None else os_type.get("arch", ""),
        cpu="" if cpu is None else (cpu.findtext("model") or cpu.get("mode") or "").strip(),
    )


def scaled_bytes(text: str, unit: str) -> int | None:
    """Return an amount of memory in bytes, None where number or unit is none."""
    number, factor = _number(text), _UNITS.get(unit.strip().lower())
    return None if number is None or factor is None else number * factor


def has_secrets(root: etree._Element) -> bool:
    """Tell whether an element holds secrets in the clear."""
    return any(True for _ in _list_secrets(root))


def hide_secrets(root: etree._Element) -> None:
    """Put HIDDEN where an element, or one in it, holds secrets.

    libvirt leaves them out. XML dumped without a display's password, changed and given back would
    open the display to everybody; this way it is recognised (`has_hidden_secrets`).
    """
    for element, attribute in list(_list_secrets(root)):
        if attribute is not None:
            element.set(attribute, HIDDEN)
            continue
        # What stands behind a comment inside is part of it.
        for child in list(element):
            element.remove(child)
        element.text = HIDDEN


def has_hidden_secrets(root: etree._Element) -> bool:
    """Tell whether the secrets of an element were hidden when it was dumped."""
    return any(
        (element.text if attribute is None else element.get(attribute)) == HIDDEN
        for element, attribute in _list_secrets(root)
    )


def _list_secrets(root: etree._Element) -> Iterator[tuple[etree._Element, str | None]]:
    """Yield each element that holds a secret with the attribute that it is in, None for its text."""
    for element in root.iter("*"):
        yield from ((element, name) for name in map(str, element.attrib) if name in SECRETS)
        if element.tag in SECRETS:
            yield element, None


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else None
