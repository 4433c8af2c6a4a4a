"""Ask the kernel how much was written to a block device: its node has no time that could tell.

Source: Linux Documentation/block/stat.rst; Documentation/ABI/stable/sysfs-block (diskseq, iostats).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.store.record import read_boot_id

_DEVICES: Final = Path("/sys/dev/block")
#: Of the numbers in "stat": sectors that were written, and sectors that were discarded (since Linux 4.18).
_COUNTED: Final = (6, 13)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """What a block device has taken since it appeared; it says nothing of another device."""

    #: Sectors of 512 bytes, written or discarded through this host.
    sectors: int
    #: Its number, such as "253:4"; given to others once it has gone.
    device: str
    #: Another one each time a device appears; None before Linux 5.15.
    sequence: int | None
    #: Of the host: all counts begin anew with it.
    boot_id: str

    def since(self, earlier: Writes) -> int | None:
        """Return the sectors that were written since; None where these are counts of another device."""
        is_same = replace(self, sectors=0) == replace(earlier, sectors=0)
        return self.sectors - earlier.sectors if is_same and self.sectors >= earlier.sectors else None


def read_writes(device: int) -> Writes | None:
    """Return the counts of a block device; None where the kernel keeps none.

    Args:
        device: its number (st_rdev).
    """
    name = f"{os.major(device)}:{os.minor(device)}"
    directory = _DEVICES / name
    try:
        numbers = (directory / "stat").read_text().split()
        sectors = sum(int(numbers[at]) for at in _COUNTED if at < len(numbers))
        # A partition has these two in the directory of its disk, which is the one above its own.
        whole = directory if (directory / "queue").exists() else directory.resolve().parent
        if (whole / "queue" / "iostats").read_text().strip() != "1":
            return None
        sequence = whole / "diskseq"
        number = int(sequence.read_text()) if sequence.exists() else None
    except (OSError, ValueError):
        return None
    return Writes(sectors=sectors, device=name, sequence=number, boot_id=read_boot_id())
