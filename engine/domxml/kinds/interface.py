"""Rules for what a network interface is plugged into.

Source: libvirt src/conf/domain_conf.c, virDomainNetDefParseXML(); docs/formatdomain.rst, "Network
interfaces".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lxml import etree

from engine.domxml.edit.draft import Pen
from engine.domxml.edit.place import place_of
from engine.domxml.kinds.kind import (
    GuestVisibleError,
    Key,
    Kind,
    Setting,
    Settings,
    read_choice,
    read_text,
    write_settings,
)

#: Key of `set` -> type of interface that has it.
_TYPES: Final[Mapping[str, str]] = {
    "network": "network",
    "portgroup": "network",
    "bridge": "bridge",
    "dev": "direct",
    "mode": "direct",
}
#: Type of interface -> key that it cannot do without.
_NEEDED: Final[Mapping[str, str]] = {"network": "network", "bridge": "bridge", "direct": "dev"}
#: What libvirt itself notes of a port in a network; of no meaning in another.
_OF_A_PORT: Final = ("portid", "bridge")
#: Types that are a device rather than a plug: under a running guest nothing else can take its place.
_FIXED: Final = frozenset({"hostdev", "vdpa", "vhostuser"})


def _check(values: Mapping[str, str]) -> None:
    types = {_TYPES[key] for key in values if key in _TYPES}
    if len(types) > 1:
        raise ValueError(f"{', '.join(values)}, want the keys of one type of interface")
    kind = values.get("type")
    if kind is None:
        return
    if types - {kind}:
        raise ValueError(f'type = "{kind}" with {", ".join(values)}, want type {types.pop()!r}')
    needed = _NEEDED.get(kind)
    if needed and needed not in values:
        raise ValueError(f'type = "{kind}" alone, want {needed}, too')


def _write(settings: Settings, pen: Pen, interface: etree._Element, values: Mapping[str, str]) -> None:
    write_settings(settings, pen, interface, values)
    kind = values.get("type") or next((_TYPES[key] for key in values if key in _TYPES), None)
    if kind is None:
        return
    old = interface.get("type", "")
    if old in _FIXED and kind != old:
        raise GuestVisibleError(
            f"an interface of type {old} cannot become one of type {kind} under its guest"
        )
    pen.put(place_of(interface, "@type"), kind)
    source = interface.find("source")
    if source is None or kind == old:
        return
    if not any(key in _TYPES for key in values):
        pen.remove(source)
        return
    for name in map(str, source.attrib):
        if name not in values:
            pen.put(place_of(source, f"@{name}"), None)
    for child in source.iterchildren("*"):
        pen.remove(child)


def _follow(pen: Pen, interface: etree._Element) -> None:
    """Forget the port in the old network when the network is another."""
    source = interface.find("source")
    if source is None or interface.get("type") != "network":
        return
    network = place_of(source, "@network")
    if pen.draft.values.get(network, network.value) == network.value:
        return
    for name in _OF_A_PORT:
        place = place_of(source, f"@{name}")
        if place.value is not None and place not in pen.draft.values:
            pen.put(place, None)


INTERFACE: Final = Kind(
    name="interface",
    elements=("devices/interface",),
    keys={
        "source.network": Key(path="source/@network", is_replaceable=True),
        "source.bridge": Key(path="source/@bridge", is_replaceable=True),
        "source.dev": Key(path="source/@dev", is_replaceable=True),
        "source.portgroup": Key(path="source/@portgroup", is_replaceable=True),
        "source.mode": Key(path="source/@mode"),
        "type": Key(path="@type"),
        "mac": Key(path="mac/@address", ignores_case=True),
        "model": Key(path="model/@type"),
        "target": Key(path="target/@dev"),
    },
    settings={
        "type": Setting(read=read_choice("network", "bridge", "direct", "user", "ethernet")),
        "network": Setting(read=read_text, path="source/@network"),
        "portgroup": Setting(read=read_text, path="source/@portgroup"),
        "bridge": Setting(read=read_text, path="source/@bridge"),
        "dev": Setting(read=read_text, path="source/@dev"),
        "mode": Setting(read=read_choice("vepa", "bridge", "private", "passthrough"), path="source/@mode"),
    },
    write=_write,
    check=_check,
    follow=_follow,
)
