"""Read and write sizes and durations as operators do."""

from __future__ import annotations

import math
import re
from typing import Final

KiB: Final = 1024
MiB: Final = 1024 * KiB
GiB: Final = 1024 * MiB

_FACTORS: Final = {
    "": 1, "b": 1,
    "k": KiB, "kib": KiB, "m": MiB, "mib": MiB, "g": GiB, "gib": GiB, "t": 1024 * GiB, "tib": 1024 * GiB,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
}  # fmt: skip
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)(?:/s)?\s*", re.IGNORECASE)

_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that "400MiB", "1.5G" or "100MB/s" stand for.

    Raises:
        ValueError: the text is no size.
    """
    found = _SIZE.fullmatch(text)
    factor = _FACTORS.get(found.group(2).lower()) if found else None
    size = float(found.group(1)) * factor if found and factor else math.inf
    if not math.isfinite(size):
        raise ValueError(f"{text!r} is no size, want a number and KiB, MiB, GiB or TiB")
    return int(size)


def parse_seconds(text: str) -> float:
    """Return the seconds that "2s", "500ms", "1.5 min", "1h" or "2" stand for.

    Raises:
        ValueError: the text is no duration.
    """
    found = _DURATION.fullmatch(text)
    factor = _SECONDS.get(found.group(2).lower()) if found else None
    seconds = float(found.group(1)) * factor if found and factor else math.inf
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is no duration, want a number and ms, s, min or h")
    return seconds


def format_size(size: float) -> str:
    """Return bytes in the binary unit that keeps the number short: "1.2 GiB"."""
    for unit, factor in (("TiB", 1024 * GiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def round_up(size: int, block_size: int) -> int:
    """Return the smallest multiple of block_size that holds size bytes."""
    return -(-size // block_size) * block_size
