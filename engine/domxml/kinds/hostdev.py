"""Rules for which device of the host a guest has; where the guest sees it stays.

Source: libvirt docs/formatdomain.rst, "Host device assignment".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from lxml import etree

from engine.domxml.edit.draft import Pen
from engine.domxml.edit.place import place_of
from engine.domxml.kinds.kind import (
    Found,
    Key,
    Kind,
    Setting,
    Settings,
    read_choice,
    read_switch,
    write_settings,
)
from engine.domxml.pattern import shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """How a device of the host is named in one word."""

    #: @type of the device.
    type: str
    #: The numbers that the word holds, in its order.
    word: re.Pattern[str]
    base: int
    #: How the word is printed.
    form: str
    #: Path below <source> of each number -> how XML has it.
    places: Mapping[str, str]
    #: What the word looks like, for errors.
    example: str

    def read(self, value: Any) -> str:
        """Return a rule's word as this module prints it."""
        found = self.word.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{shorten(value)}, want a word such as {self.example}")
        return self.form.format(*(int(number or "0", self.base) for number in found.groups()))

    def word_of(self, source: etree._Element) -> str | None:
        """Return the word of a source, None if it has no such address."""
        numbers = [_number(place_of(source, path).value or _DEFAULTS.get(path, "")) for path in self.places]
        return None if None in numbers else self.form.format(*numbers)

    def write(self, pen: Pen, source: etree._Element, word: str) -> None:
        """Put the numbers of a word where they differ."""
        found = self.word.fullmatch(word)
        assert found is not None, word
        for number, (path, form) in zip(found.groups(), self.places.items(), strict=True):
            place = place_of(source, path)
            value = int(number, self.base)
            if _number(place.value or _DEFAULTS.get(path, "")) != value:
                pen.put(place, form.format(value))


#: What libvirt assumes where nothing is said.
_DEFAULTS: Final = {"address/@domain": "0"}
_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,8}|(?:scsi_host)?[0-9]{1,9}", re.ASCII)
_ADDRESSES: Final[Mapping[str, _Address]] = {
    "pci": _Address(
        type="pci",
        word=re.compile(r"(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])"),
        base=16,
        form="{:04x}:{:02x}:{:02x}.{:x}",
        places={
            "address/@domain": "0x{:04x}", "address/@bus": "0x{:02x}",
            "address/@slot": "0x{:02x}", "address/@function": "0x{:x}",
        },
        example="0000:03:00.0, as lspci -D prints it",
    ),
    "usb": _Address(
        type="usb",
        word=re.compile(r"([0-9a-f]{1,4}):([0-9a-f]{1,4})"),
        base=16,
        form="{:04x}:{:04x}",
        places={"vendor/@id": "0x{:04x}", "product/@id": "0x{:04x}"},
        example="046d:c52b, as lsusb prints it",
    ),
    "usb_address": _Address(
        type="usb",
        word=re.compile(r"([0-9]{1,3}):([0-9]{1,3})", re.ASCII),
        base=10,
        form="{:d}:{:d}",
        places={"address/@bus": "{:d}", "address/@device": "{:d}"},
        example="1:4, bus and device",
    ),
    "scsi": _Address(
        type="scsi",
        word=re.compile(r"([0-9]{1,4}):([0-9]{1,4}):([0-9]{1,4}):([0-9]{1,8})", re.ASCII),
        base=10,
        form="{:d}:{:d}:{:d}:{:d}",
        places={
            "adapter/@name": "scsi_host{:d}", "address/@bus": "{:d}",
            "address/@target": "{:d}", "address/@unit": "{:d}",
        },
        example="0:0:1:0, as lsscsi prints it",
    ),
}  # fmt: skip


def _number(text: str) -> int | None:
    text = text.strip().lower()
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 16) if text.startswith("0x") else int(text.removeprefix("scsi_host"))


def _type_of(device: etree._Element) -> str:
    """Return the type of a device; an interface has it in its source's address."""
    if device.tag == "interface":
        return place_of(device, "source/address/@type").value or ""
    return device.get("type", "")


def _finder(name: str) -> Any:
    """Return the function that finds the word of a device."""
    address = _ADDRESSES[name]

    def find(device: etree._Element) -> Iterator[Found]:
        source = device.find("source")
        if source is not None and _type_of(device) == address.type:
            word = address.word_of(source)
            if word is not None:
                yield Found(value=word)

    return find


def _find_mdev(device: etree._Element) -> Iterator[Found]:
    value = place_of(device, "source/address/@uuid").value
    if _type_of(device) == "mdev" and value is not None:
        yield Found(value=value.lower())


def _read_uuid(value: Any) -> str:
    try:
        return str(UUID(value))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{shorten(value)}, want the UUID of a mediated device") from error


def _find_types(device: etree._Element) -> Iterator[Found]:
    yield Found(value=_type_of(device))


def _check(values: Mapping[str, str]) -> None:
    words = [key for key in values if key != "managed"]
    if len(words) > 1:
        raise ValueError(f"{', '.join(words)}, want one of them")


def _write(settings: Settings, pen: Pen, device: etree._Element, values: Mapping[str, str]) -> None:
    write_settings(settings, pen, device, values)
    for key, word in values.items():
        if key == "managed":
            continue
        address = _ADDRESSES.get(key)
        wanted = address.type if address else "mdev"
        source = device.find("source")
        if source is None or _type_of(device) != wanted:
            raise ValueError(f"a host device of type {_type_of(device) or 'none'}, want {wanted} for {key}")
        if address:
            address.write(pen, source, word)
        else:
            pen.put(place_of(source, "address/@uuid"), word)


HOSTDEV: Final = Kind(
    name="hostdev",
    elements=("devices/hostdev", "devices/interface[@type='hostdev']"),
    keys={
        "type": Key(path=_find_types, read=read_choice("pci", "usb", "scsi", "mdev", "scsi_host")),
        **{name: Key(path=_finder(name), read=address.read) for name, address in _ADDRESSES.items()},
        "mdev": Key(path=_find_mdev, read=_read_uuid),
        "alias": Key(path="alias/@name"),
    },
    settings={
        **{name: Setting(read=address.read) for name, address in _ADDRESSES.items()},
        "mdev": Setting(read=_read_uuid),
        "managed": Setting(read=read_switch("yes", "no"), path="@managed"),
    },
    write=_write,
    check=_check,
)
