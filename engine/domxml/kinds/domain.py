"""Rules for what a domain is run with and what becomes of it at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lxml import etree

from engine.domxml.edit.draft import Pen
from engine.domxml.kinds.kind import Key, Kind, Setting, read_choice, read_switch, read_text

#: What may become of a domain at each event; libvirt src/conf/domain_conf.c, virDomainLifecycleAction.
_ENDINGS: Final = ("destroy", "restart", "preserve", "rename-restart")
EVENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_poweroff": _ENDINGS,
    "on_reboot": _ENDINGS,
    "on_crash": (*_ENDINGS, "coredump-destroy", "coredump-restart"),
}

EMULATOR: Final = Kind(
    name="emulator",
    elements=("devices/emulator",),
    keys={"path": Key(path="text()", is_replaceable=True)},
    settings={"path": Setting(read=read_text, path="text()")},
)


def _forget_image_label(pen: Pen, seclabel: etree._Element) -> None:
    """Forget what libvirt derived from the label."""
    pen.remove(seclabel.find("imagelabel"))


SECLABEL: Final = Kind(
    name="seclabel",
    elements=("seclabel",),
    keys={
        "type": Key(path="@type", default="dynamic"),
        "model": Key(path="@model"),
        "label": Key(path="label/text()", is_replaceable=True),
        "baselabel": Key(path="baselabel/text()", is_replaceable=True),
    },
    settings={
        "type": Setting(read=read_choice("dynamic", "static", "none"), path="@type"),
        "model": Setting(read=read_text, path="@model"),
        "relabel": Setting(read=read_switch("yes", "no"), path="@relabel"),
        "label": Setting(read=read_text, path="label/text()"),
        "baselabel": Setting(read=read_text, path="baselabel/text()"),
    },
    follow=_forget_image_label,
    is_removable=True,
)

#: The rules that are one line: on_crash = "restart".
LIFECYCLE: Final[Mapping[str, Kind]] = {
    event: Kind(
        name=event,
        elements=(".",),
        keys={},
        settings={event: Setting(read=read_choice(*words), path=f"{event}/text()")},
    )
    for event, words in EVENTS.items()
}
