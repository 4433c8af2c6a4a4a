"""Rules for what is behind a guest's serial lines, parallel ports, consoles and channels.

Source: libvirt src/conf/domain_conf.c, virDomainChrSourceDefParseXML(), virDomainDefAddConsoleCompat().
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from lxml import etree

from engine.domxml.edit.draft import Pen
from engine.domxml.edit.place import place_of
from engine.domxml.kinds.kind import (
    Key,
    Kind,
    Setting,
    Settings,
    read_choice,
    read_number,
    read_switch,
    read_text,
    write_settings,
)

#: Type of back end -> keys of `set` that it has; those it cannot do without come first.
_BACKENDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "file": (("path",), ("append",)),
    "pipe": (("path",), ()),
    "dev": (("path",), ()),
    "unix": (("path", "mode"), ()),
    "tcp": (("mode", "host", "service"), ("protocol", "tls")),
    "pty": ((), ()),
    "null": ((), ()),
    "stdio": ((), ()),
}
#: Of every back end.
_ALWAYS: Final = frozenset({"type", "log", "log_append"})
#: Keys of `set` that go into the first <source>.
_SOURCE_KEYS: Final = frozenset({"path", "append", "mode", "host", "service", "tls"})
_PORT_MAX: Final = 65535


def _check(values: Mapping[str, str]) -> None:
    if values.get("log_append") and "log" not in values:
        raise ValueError("log_append alone, want log, too")
    kind = values.get("type")
    if kind is None:
        return
    needed, possible = _BACKENDS[kind]
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f'type = "{kind}" without {", ".join(missing)}, want all of {", ".join(needed)}')
    if other := values.keys() - {*needed, *possible, *_ALWAYS}:
        raise ValueError(f'type = "{kind}" with {", ".join(sorted(other))}, want keys of that type')


def _write(settings: Settings, pen: Pen, device: etree._Element, values: Mapping[str, str]) -> None:
    old, kind = device.get("type", ""), values.get("type", device.get("type", ""))
    if "type" not in values:
        needed, possible = _BACKENDS.get(kind, ((), ()))
        if other := values.keys() - {*needed, *possible, *_ALWAYS}:
            raise ValueError(f"{', '.join(sorted(other))} of a {device.tag!s} of type {kind}, want type, too")
    if kind != old:
        _clear(pen, device, values)
    elif kind == "unix" and "path" in values and place_of(device, "source/@path").value is None:
        # libvirt itself made the socket, and prints neither where nor that it listens there.
        values = {"mode": "bind", **values}
    write_settings(settings, pen, device, values)


def _clear(pen: Pen, device: etree._Element, values: Mapping[str, str]) -> None:
    """Take out what the old type of back end has; the first <source> is of use if the new one has any."""
    kept = _SOURCE_KEYS & values.keys()
    for number, source in enumerate(device.iterfind("source")):
        if number or not kept:
            pen.remove(source)
            continue
        for name in map(str, source.attrib):
            if name not in kept:
                pen.put(place_of(source, f"@{name}"), None)
    if "protocol" not in values:
        pen.remove(device.find("protocol"))


def _twins(device: etree._Element) -> Iterator[etree._Element]:
    """Yield the first console of a first serial line, or the reverse: libvirt prints one device twice."""
    devices = device.getparent()
    assert devices is not None
    serial, console = devices.find("serial"), devices.find("console")
    if serial is None or console is None or device not in {serial, console}:
        return
    if place_of(console, "target/@type").value not in {"serial", None}:
        return
    if all(place_of(serial, path).value == place_of(console, path).value for path in _SAME):
        yield console if device is serial else serial


#: What the two have in common then.
_SAME: Final = ("@type", "source/@path", "source/@host", "source/@service")


def _follow(pen: Pen, device: etree._Element) -> None:
    """Forget the terminal that a running console had, when it gets another."""
    terminal = place_of(device, "@tty")
    wishes = pen.draft.values
    backend = (place_of(device, "@type"), place_of(device, "source/@path"))
    if terminal.value is not None and any(wishes.get(place, place.value) != place.value for place in backend):
        pen.put(terminal, None)


def _chardev(name: str) -> Kind:
    return Kind(
        name=name,
        elements=(f"devices/{name}",),
        keys={
            "path": Key(path="source/@path", is_replaceable=True),
            "host": Key(path="source/@host", is_replaceable=True),
            "service": Key(path="source/@service", is_replaceable=True),
            "log": Key(path="log/@file", is_replaceable=True),
            "type": Key(path="@type"),
            "port": Key(path="target/@port"),
            "name": Key(path="target/@name"),
            "alias": Key(path="alias/@name"),
        },
        settings={
            "type": Setting(read=read_choice(*_BACKENDS), path="@type"),
            "path": Setting(read=read_text, path="source/@path"),
            "append": Setting(read=read_switch("on", "off"), path="source/@append"),
            "mode": Setting(read=read_choice("bind", "connect"), path="source/@mode"),
            "host": Setting(read=read_text, path="source/@host"),
            "service": Setting(read=read_number(1, _PORT_MAX), path="source/@service"),
            "tls": Setting(read=read_switch("yes", "no"), path="source/@tls"),
            "protocol": Setting(read=read_choice("raw", "telnet", "telnets", "tls"), path="protocol/@type"),
            "log": Setting(read=read_text, path="log/@file"),
            "log_append": Setting(read=read_switch("on", "off"), path="log/@append"),
        },
        write=_write,
        check=_check,
        twins=_twins,
        follow=_follow,
    )


SERIAL: Final = _chardev("serial")
PARALLEL: Final = _chardev("parallel")
CONSOLE: Final = _chardev("console")
CHANNEL: Final = _chardev("channel")
