"""Remember when the simulated daemon died: connections do not outlive it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from engine.hypervisor.sim.owner import read_boot_id

_NAME: Final = "daemon.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One life of the daemon."""

    #: How often it has died.
    deaths: int = 0
    #: When it answers again, time.monotonic().
    back_at: float = 0.0
    boot_id: str = ""

    @property
    def answers(self) -> bool:
        """True unless it is away."""
        return self.boot_id != read_boot_id() or time.monotonic() >= self.back_at


def read_daemon(directory: Path) -> Daemon:
    """Return the daemon of the host in this directory."""
    try:
        return Daemon(**json.loads((directory / _NAME).read_text()))
    except FileNotFoundError:
        return Daemon()


def end_daemon(directory: Path, away_seconds: float) -> None:
    """Let it die, and be back after so long; only while the host is locked."""
    dead = Daemon(
        deaths=read_daemon(directory).deaths + 1,
        back_at=time.monotonic() + away_seconds,
        boot_id=read_boot_id(),
    )
    new = directory / f".{_NAME}.new"
    new.write_text(json.dumps(asdict(dead)))
    new.rename(directory / _NAME)
