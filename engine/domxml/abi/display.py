"""Tell what the guest sees of video and sound cards and input devices.

Source: libvirt src/conf/domain_conf.c, virDomainVideoDefCheckABIStability(),
virDomainSoundDefCheckABIStability(), virDomainInputDefCheckABIStability().
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.domxml.abi.device import ADDRESS, BACKEND, SHARED, UNCHECKED, VIRTIO
from engine.domxml.abi.table import Element, Group, Table, free, same
from engine.domxml.abi.values import count, default, number, present, text_at

_ALWAYS_THERE: Final = frozenset({"mouse", "keyboard"})


def order_videos(videos: Sequence[Element]) -> Sequence[Element]:
    """Return video cards as libvirt keeps them: the primary one first."""
    return sorted(videos, key=lambda video: text_at(video, "model/@primary") != "yes")


def pick_implied(inputs: Sequence[Element]) -> dict[str, Element]:
    """Return the PS/2 mouse and keyboard that every PC has, where they are the last as libvirt adds them."""
    found: dict[str, Element] = {}
    for one in reversed(inputs):
        kind = one.get("type", "")
        if one.get("bus") != "ps2" or kind not in _ALWAYS_THERE or "mouse" in found or kind in found:
            break
        found[kind] = one
    return found


INPUT: Final = Table(
    visible=(
        same("@type", "the guest would have another input device"),
        same("@bus", "the guest would find the device on another bus"),
        same("@model", "the guest would have another model of device"),
        *VIRTIO,
        *ADDRESS,
    ),
    free=(*free(BACKEND, "source", "driver"), *SHARED),
)
SOUND: Final = Table(
    visible=(
        same("@model", "the guest would have another sound card"),
        same("@multichannel", "the guest sees how many channels the card has"),
        *ADDRESS,
    ),
    free=(*free(BACKEND, "audio"), *free(UNCHECKED, "codec", "@streams", "driver"), *SHARED),
)
VIDEO: Final = Table(
    visible=(
        same("model/@type", "the guest would have another video card"),
        *(
            same(f"model/@{memory}", "the guest sees how much memory the card has", count)
            for memory in ("ram", "vram", "vram64", "vgamem")
        ),
        same("model/@heads", "the guest sees how many screens the card has", default("1", number)),
        same("model/acceleration", "the guest's driver uses the acceleration", present),
        same("model/acceleration/@accel2d", "the guest's driver uses the acceleration"),
        same("model/acceleration/@accel3d", "the guest's driver uses the acceleration"),
        *VIRTIO,
        *ADDRESS,
    ),
    free=(
        *free("how the host draws", "driver", "model/acceleration/@rendernode"),
        *free(UNCHECKED, "model/@primary", "model/@blob", "model/@edid", "model/resolution"),
        *SHARED,
    ),
)
DISPLAY: Final = (
    Group(path="devices/input", table=INPUT, noun="input device", implied=pick_implied, is_implied_last=True),
    Group(path="devices/sound", table=SOUND, noun="sound card"),
    Group(path="devices/video", table=VIDEO, noun="video card", order=order_videos),
)
