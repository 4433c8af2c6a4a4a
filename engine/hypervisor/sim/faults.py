"""Say where a simulated hypervisor fails, and how: `save.memory:error=38,domain=web-*,times=1`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from engine.errors import InvalidArgumentError

_WRITING: Final = ("call", "paused", "opened", "head", "memory", "closed", "reopened", "ended", "resume")
_READING: Final = ("call", "opened", "head", "closed", "reopened", "memory", "loaded")
#: Each operation's points in the order it reaches them ("paused" comes late in a checkpoint).
#: "resume" is on the way back, after a failure; "ended" when the guest is gone, or has its file.
POINTS: Final[dict[str, tuple[str, ...]]] = {
    "connect": ("call",),
    "look": ("call",),
    "save": _WRITING,
    "managed-save": _WRITING,
    "checkpoint": _WRITING,
    "dump": tuple(point for point in _WRITING if point != "reopened"),
    "restore": _READING,
    "start": ("call", "opened", "head", "memory", "loaded"),
    "resume": ("call",),
    "abort": ("call",),
    "managed-save-remove": ("call",),
}
#: error: fail with this libvirt number. hang: stand still for so long. crash: the daemon dies and
#: stays away for so long. death: the guest dies.
ACTIONS: Final = ("error", "hang", "crash", "death")
_DURATIONS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong at one point."""

    #: The fault as it was written; counts are kept by it.
    text: str
    op: str
    point: str
    action: str
    #: libvirt's number for "error"; seconds for "hang" and "crash", None = no end given.
    value: float | None
    #: Name pattern of the domains it strikes.
    domain: str = "*"
    #: How often it strikes on this host; None = always.
    times: int | None = None
    #: Of the domains that fit, how many it strikes: always the same ones.
    share: float = 1.0

    def strikes(self, op: str, point: str, domain: str) -> bool:
        """Tell whether this is the point and the domain; `times` is for the host to count."""
        if (op, point) != (self.op, self.point) or not fnmatchcase(domain, self.domain):
            return False
        return zlib.crc32(f"{domain} {self.text}".encode()) < self.share * 2**32


def parse_fault(text: str) -> Fault:
    """Return the fault that OP.POINT:ACTION[=VALUE][,domain=GLOB][,times=N][,share=0..1] stands for.

    Raises:
        InvalidArgumentError: the text names no operation, point, action or option there is.
    """
    text = text.strip()
    strike, *options = text.split(",")
    place, _, what = strike.partition(":")
    op, _, point = place.partition(".")
    action, has_value, value = what.partition("=")
    _refuse(text, op in POINTS, f"operation {op!r}", ", ".join(POINTS))
    _refuse(text, point in POINTS[op], f"point {point!r}", ", ".join(POINTS[op]))
    _refuse(text, action in ACTIONS, f"action {action!r}", ", ".join(ACTIONS))
    given = dict(option.partition("=")[::2] for option in options)
    known = {"domain", "times", "share"}
    _refuse(text, given.keys() <= known, f"options {', '.join(given)}", ", ".join(sorted(known)))
    try:
        return Fault(
            text=text,
            op=op,
            point=point,
            action=action,
            value=_parse_value(action, value) if has_value else None,
            domain=given.get("domain", "*"),
            times=int(given["times"]) if "times" in given else None,
            share=float(given.get("share", "1")),
        )
    except ValueError as error:
        raise InvalidArgumentError(f"fault {text!r}", str(error), "a number") from error


def _parse_value(action: str, value: str) -> float:
    return int(value) if action == "error" else parse_duration(value)


def parse_duration(text: str) -> float:
    """Return the seconds that "5ms", "1.5s" or "2m" stand for.

    Raises:
        ValueError: the text is no duration.
    """
    for unit, seconds in _DURATIONS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal():
            return float(number) * seconds
    raise ValueError(f"{text!r} is no duration, want a number and ms, s or m")


def _refuse(text: str, is_right: bool, found: str, wanted: str) -> None:
    if not is_right:
        raise InvalidArgumentError(f"fault {text!r}", found, f"one of {wanted}", "see docs/SIMULATION.md")
