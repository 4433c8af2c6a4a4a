"""Rules for where a disk's content lies.

Source: libvirt src/conf/domain_conf.c, virDomainStorageSourceParse(); docs/formatdomain.rst, "Hard drives".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

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
    read_number,
    read_text,
    write_settings,
)

#: Type of source -> attribute that says where it lies.
LOCATIONS: Final[Mapping[str, str]] = {
    "file": "file",
    "block": "dev",
    "dir": "dir",
    "network": "name",
    "volume": "volume",
    "vhostvdpa": "dev",
}
#: Elements of a disk whose own source belongs to its content.
_CARRIERS: Final = frozenset({"disk", "backingStore", "dataStore", "mirror"})
#: Key of `set` -> type of source that has it.
_TYPES: Final[Mapping[str, str]] = {
    "file": "file", "dev": "block", "dir": "dir", "pool": "volume", "volume": "volume",
    "protocol": "network", "name": "network", "host": "network", "port": "network",
}  # fmt: skip
#: What of a source is about its content, not about where that lies.
_STAYS: Final = frozenset({"encryption", "seclabel", "slices", "dataStore"})
_STAYING_ATTRIBUTES: Final = frozenset({"startupPolicy", "index"})
_PORT_MAX: Final = 65535


def iter_sources(disk: etree._Element) -> Iterator[tuple[etree._Element, str]]:
    """Yield the sources of a disk and their types: its own first, then what lies below it."""
    for source in disk.iter("source"):
        carrier = source.getparent()
        assert carrier is not None
        if carrier.tag in _CARRIERS:
            yield source, carrier.get("type", "file")


def _find_sources(disk: etree._Element) -> Iterator[Found]:
    for source, kind in iter_sources(disk):
        attribute = LOCATIONS.get(kind, "")
        value = source.get(attribute) if attribute else None
        if value is not None:
            yield Found(value=value, place=place_of(source, f"@{attribute}"))


def _check(values: Mapping[str, str]) -> None:
    types = {_TYPES[key] for key in values if key in _TYPES}
    if len(types) > 1:
        raise ValueError(f"{', '.join(values)}, want the keys of one type of source")
    kind = values.get("type")
    if kind is not None and types - {kind}:
        raise ValueError(f'type = "{kind}" with {", ".join(key for key in values if key in _TYPES)}, '
                         f"want type {types.pop()!r}")  # fmt: skip
    needed = {
        "file": ("file",), "block": ("dev",), "dir": ("dir",), "volume": ("pool", "volume"),
        "network": ("protocol", "name"),
    }[kind] if kind is not None else ()  # fmt: skip
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f'type = "{kind}" without {", ".join(missing)}, want all of {", ".join(needed)}')


def _write(settings: Settings, pen: Pen, disk: etree._Element, values: Mapping[str, str]) -> None:
    write_settings(settings, pen, disk, values)
    kind = values.get("type") or next((_TYPES[key] for key in values if key in _TYPES), None)
    if kind is None:
        return
    is_moved = kind != disk.get("type", "file")
    if is_moved or disk.get("type") is not None:
        pen.put(place_of(disk, "@type"), kind)
    source = disk.find("source")
    if source is None:
        return
    if is_moved:
        for name in map(str, source.attrib):
            if name not in _STAYING_ATTRIBUTES and name not in values:
                pen.put(place_of(source, f"@{name}"), None)
    _take_out(pen, source, is_moved=is_moved, has_host="host" in values, has_port="port" in values)


def _take_out(pen: Pen, source: etree._Element, *, is_moved: bool, has_host: bool, has_port: bool) -> None:
    """Take out what led to the old place; the first host makes way for the new one where it stands."""
    first: etree._Element | None = None
    for child in source.iterchildren("*"):
        if child.tag == "host" and has_host and first is None:
            first = child
        elif (child.tag == "host" and (has_host or is_moved)) or (is_moved and child.tag not in _STAYS):
            pen.remove(child)
    if first is not None:
        for name in map(str, first.attrib):
            if name != "name" and not (name == "port" and has_port):
                pen.put(place_of(first, f"@{name}"), None)


DISK: Final = Kind(
    name="disk",
    elements=("devices/disk",),
    keys={
        "source": Key(path=_find_sources, is_replaceable=True),
        "host": Key(path="source/host/@name", is_replaceable=True),
        "pool": Key(path="source/@pool", is_replaceable=True),
        "volume": Key(path="source/@volume", is_replaceable=True),
        "protocol": Key(path="source/@protocol"),
        "type": Key(path="@type", default="file"),
        "device": Key(path="@device", default="disk"),
        "target": Key(path="target/@dev"),
        "bus": Key(path="target/@bus"),
        "format": Key(path="driver/@type"),
        "serial": Key(path="serial/text()"),
    },
    settings={
        "type": Setting(read=read_choice("file", "block", "dir", "network", "volume")),
        "file": Setting(read=read_text, path="source/@file"),
        "dev": Setting(read=read_text, path="source/@dev"),
        "dir": Setting(read=read_text, path="source/@dir"),
        "pool": Setting(read=read_text, path="source/@pool"),
        "volume": Setting(read=read_text, path="source/@volume"),
        "protocol": Setting(read=read_text, path="source/@protocol"),
        "name": Setting(read=read_text, path="source/@name"),
        "host": Setting(read=read_text, path="source/host/@name"),
        "port": Setting(read=read_number(1, _PORT_MAX), path="source/host/@port"),
        "format": Setting(read=read_text, path="driver/@type"),
        "cache": Setting(
            read=read_choice("default", "none", "writethrough", "writeback", "directsync", "unsafe"),
            path="driver/@cache",
        ),
        "io": Setting(read=read_choice("threads", "native", "io_uring"), path="driver/@io"),
        "discard": Setting(read=read_choice("unmap", "ignore"), path="driver/@discard"),
    },
    write=_write,
    check=_check,
)
