"""Tell whether the process that does a piece of work is still there.

Source: proc(5), /proc/pid/stat.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: A process that has ended but was not collected yet, or is about to be.
_DEAD_STATES: Final = frozenset("ZXx")


@cache
def read_boot_id() -> str:
    """Return the kernel's id of this boot: running guests do not outlive it."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One process, told apart from a later one of the same number."""

    pid: int
    #: Clock ticks from boot to its start.
    started_at: int
    boot_id: str

    @classmethod
    def me(cls) -> Owner:
        """Return this process."""
        pid = os.getpid()
        found = _look_at(pid)
        assert found is not None
        return cls(pid=pid, started_at=found[1], boot_id=read_boot_id())

    def is_alive(self) -> bool:
        """Tell whether the very process still runs."""
        if self.boot_id != read_boot_id():
            return False
        found = _look_at(self.pid)
        return found is not None and found[0] not in _DEAD_STATES and found[1] == self.started_at


def _look_at(pid: int) -> tuple[str, int] | None:
    """Return state letter and start time of a process, None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, even spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])
