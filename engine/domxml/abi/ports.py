"""Tell what the guest sees of its serial and parallel ports, consoles, channels and card readers.

Source: libvirt src/conf/domain_conf.c, virDomainSerialDefCheckABIStability(),
virDomainChannelDefCheckABIStability(), virDomainConsoleDefCheckABIStability(),
virDomainParallelDefCheckABIStability().
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from engine.domxml.abi.device import ADDRESS, BACKEND, CHARACTER_BACKEND, SHARED, UNCHECKED
from engine.domxml.abi.table import Element, Group, Table, Visible, free, same
from engine.domxml.abi.values import number, text_at

_NAMED: Final = frozenset({"virtio", "xen"})


def _channel_name(channel: Element) -> Hashable:
    """Return what the guest opens the channel by; one of spice without a name has a name all the same."""
    if text_at(channel, "target/@type") not in _NAMED:
        return None
    return text_at(channel, "target/@name") or ("", channel.get("type") == "spicevmc")


def _forwarded(channel: Element) -> Hashable:
    if text_at(channel, "target/@type") != "guestfwd":
        return None
    return text_at(channel, "target/@address"), number(text_at(channel, "target/@port"))


SERIAL: Final = Table(
    visible=(
        same("target/@type", "the guest would have another kind of port"),
        same("target/model/@name", "the guest would have another model of port"),
        same("target/@port", "the guest knows the port by its number", number),
        *ADDRESS,
    ),
    free=(*CHARACTER_BACKEND, *SHARED),
)
PARALLEL: Final = Table(
    visible=(same("target/@port", "the guest knows the port by its number", number), *ADDRESS),
    free=(*CHARACTER_BACKEND, *SHARED),
)
CONSOLE: Final = Table(
    visible=(same("target/@type", "the guest would have another kind of console"), *ADDRESS),
    free=(*CHARACTER_BACKEND, *free(UNCHECKED, "target/@port"), *SHARED),
)
CHANNEL: Final = Table(
    visible=(
        same("target/@type", "the guest would have another kind of channel"),
        Visible(
            paths=("target/@name",), read=_channel_name, reason="the guest opens the channel by its name",
            rest=UNCHECKED,
        ),
        Visible(
            paths=("target/@address", "target/@port"), read=_forwarded,
            reason="the guest reaches the channel at this address", rest=UNCHECKED,
        ),
        *ADDRESS,
    ),
    free=(*CHARACTER_BACKEND, *SHARED),
)  # fmt: skip
CARD_READER: Final = Table(
    visible=ADDRESS,
    free=(*free(BACKEND, "@mode", "certificate", "database"), *CHARACTER_BACKEND, *SHARED),
)
PORTS: Final = (
    Group(path="devices/smartcard", table=CARD_READER, noun="card reader"),
    Group(path="devices/serial", table=SERIAL, noun="serial port"),
    Group(path="devices/parallel", table=PARALLEL, noun="parallel port"),
    Group(path="devices/channel", table=CHANNEL, noun="channel", key=_channel_name),
    Group(path="devices/console", table=CONSOLE, noun="console"),
)
