"""Hold the checksums of an image file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.units import MiB

#: Bytes of image that one part checksum covers.
PART_SIZE: Final = 64 * MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """Checksums of a whole image file and of each of its parts, lower-case hex."""

    algorithm: str
    value: str
    part_size: int = PART_SIZE
    parts: tuple[str, ...] = ()
