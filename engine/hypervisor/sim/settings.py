"""Read a simulated host's URI: `sim:///DIR?host=alpha&domains=1000&memory=1MiB&fault=...`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from engine.errors import InvalidArgumentError
from engine.hypervisor.sim.faults import Fault, parse_duration, parse_fault
from engine.units import MiB, parse_size

SCHEME: Final = "sim"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """What one URI says."""

    #: Directory that all hosts of this simulation have in common.
    parent: Path
    #: Name of the host; its state is in the directory of that name.
    host: str = "sim"
    #: How many domains the host is given when it is first used.
    domains: int = 0
    #: Memory of each of them, bytes.
    memory_bytes: int = 1 * MiB
    #: How many of them run then, 0 to 1.
    running: float = 1.0
    #: Makes UUIDs, so that two simulations with the same one hold the same domains.
    seed: int = 1
    #: Added to each call, seconds.
    latency_seconds: float = 0.0
    #: Most bytes of guest memory that one operation moves in a second; None = as fast as it goes.
    rate: int | None = None
    #: How long a call waits for another job on its domain before it fails, seconds; as libvirt.
    busy_seconds: float = 30.0
    #: Machine types that the host has; its first domains are of the first one.
    machines: tuple[str, ...] = ("sim-1",)
    #: Features that guests' processors can have.
    features: tuple[str, ...] = ("avx", "sse2")
    faults: tuple[Fault, ...] = ()

    @property
    def directory(self) -> Path:
        """The host's own directory."""
        return self.parent / self.host


def _names(text: str) -> tuple[str, ...]:
    """Return the names that stand between commas; ValueError for an empty one."""
    names = tuple(text.split(","))
    if not all(names):
        raise ValueError("a name is empty")
    return names


#: Key of the query -> field, and what its text stands for.
_KEYS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "host": ("host", str),
    "domains": ("domains", int),
    "memory": ("memory_bytes", parse_size),
    "running": ("running", float),
    "seed": ("seed", int),
    "latency": ("latency_seconds", parse_duration),
    "rate": ("rate", parse_size),
    "busy": ("busy_seconds", parse_duration),
    "machines": ("machines", _names),
    "features": ("features", _names),
}


def parse_uri(uri: str) -> SimSettings:
    """Return what the URI says.

    Raises:
        InvalidArgumentError: no absolute directory, an unknown key, a value that is none.
    """
    parts = urlsplit(uri)
    if parts.scheme != SCHEME or parts.netloc or parts.path in {"", "/"}:
        raise InvalidArgumentError(uri, "no simulated host", "sim:///DIRECTORY?host=NAME")
    fields: dict[str, Any] = {"parent": Path(parts.path)}
    faults = []
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key == "fault":
            faults.append(parse_fault(value))
            continue
        if key not in _KEYS:
            raise InvalidArgumentError(uri, f"unknown key {key!r}", f"one of fault, {', '.join(_KEYS)}")
        field, convert = _KEYS[key]
        try:
            fields[field] = convert(value)
        except ValueError as error:
            raise InvalidArgumentError(uri, f"{key}={value}: {error}", "a value that fits") from error
    settings = SimSettings(**fields, faults=tuple(faults))
    if not settings.host or "/" in settings.host or settings.host.startswith("."):
        raise InvalidArgumentError(uri, f"host {settings.host!r}", "a plain name")
    return settings
