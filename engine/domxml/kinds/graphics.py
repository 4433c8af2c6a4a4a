"""Rules for where a display listens; its password is nobody's to match or set.

Source: libvirt src/conf/domain_conf.c, virDomainGraphicsListensParseXML(): the attribute and the first
<listen> must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lxml import etree

from engine.domxml.edit.draft import Pen
from engine.domxml.edit.place import place_of
from engine.domxml.kinds.kind import (
    Found,
    Key,
    Kind,
    Setting,
    Settings,
    read_switch,
    read_text,
    write_settings,
)
from engine.domxml.pattern import shorten

_PORT_MAX: Final = 65535
#: What libvirt takes as "any free port".
_ANY_PORT: Final = "-1"


def _find_listens(graphics: etree._Element) -> Iterator[Found]:
    for element, name in (
        (graphics, "listen"),
        *((listen, "address") for listen in graphics.iterfind("listen")),
    ):
        value = element.get(name)
        if value is not None:
            yield Found(value=value, place=place_of(element, f"@{name}"))


def _find_sockets(graphics: etree._Element) -> Iterator[Found]:
    for element in (graphics, *graphics.iterfind("listen")):
        value = element.get("socket")
        if value is not None:
            yield Found(value=value, place=place_of(element, "@socket"))


def _read_port(value: Any) -> str:
    if value == "auto":
        return _ANY_PORT
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= _PORT_MAX or value == 0:
        raise ValueError(f'{shorten(value)}, want a number from 1 to {_PORT_MAX}, or "auto"')
    return str(value)


def _write(settings: Settings, pen: Pen, graphics: etree._Element, values: Mapping[str, str]) -> None:
    write_settings(settings, pen, graphics, values)
    if "port" in values and "autoport" not in values:
        pen.put(place_of(graphics, "@autoport"), "yes" if values["port"] == _ANY_PORT else "no")
    if "listen" in values:
        _listen(pen, graphics, values["listen"])


def _listen(pen: Pen, graphics: etree._Element, address: str) -> None:
    """Make the first <listen> one of this address; others of a network or socket would contradict it."""
    listens = graphics.findall("listen")
    if not listens or graphics.get("listen") is not None:
        pen.put(place_of(graphics, "@listen"), address)
    if not listens:
        return
    first, *rest = listens
    pen.put(place_of(first, "@type"), "address")
    pen.put(place_of(first, "@address"), address)
    for name in ("network", "socket"):
        if first.get(name) is not None:
            pen.put(place_of(first, f"@{name}"), None)
    if graphics.get("socket") is not None:
        pen.put(place_of(graphics, "@socket"), None)
    for listen in rest:
        pen.remove(listen)


GRAPHICS: Final = Kind(
    name="graphics",
    elements=("devices/graphics",),
    keys={
        "type": Key(path="@type"),
        "listen": Key(path=_find_listens, is_replaceable=True),
        "socket": Key(path=_find_sockets, is_replaceable=True),
        "port": Key(path="@port"),
        "autoport": Key(path="@autoport", read=read_switch("yes", "no"), default="no"),
    },
    settings={
        "listen": Setting(read=read_text),
        "port": Setting(read=_read_port, path="@port"),
        "tls_port": Setting(read=_read_port, path="@tlsPort"),
        "websocket": Setting(read=_read_port, path="@websocket"),
        "autoport": Setting(read=read_switch("yes", "no"), path="@autoport"),
    },
    write=_write,
)
