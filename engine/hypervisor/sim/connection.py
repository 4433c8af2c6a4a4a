"""Hold one connection to a simulated host: its manners, its faults, its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Final

from engine.errors import EngineError, HypervisorUnreachableError
from engine.hypervisor.sim.codes import (
    INTERNAL_ERROR,
    INVALID_CONN,
    OPERATION_DENIED,
    failure,
)
from engine.hypervisor.sim.daemon import end_daemon, read_daemon
from engine.hypervisor.sim.faults import Fault, parse_fault
from engine.hypervisor.sim.host import SimHost
from engine.hypervisor.sim.settings import SimSettings

#: A hang without an end still ends when the fault is taken out of the file.
_POLL_SECONDS: Final = 0.01


class SimConnection:
    """One connection; it dies with the daemon, and the next call makes it anew."""

    def __init__(self, uri: str, settings: SimSettings, host: SimHost, *, read_only: bool) -> None:
        self.uri = uri
        self.settings = settings
        self.host = host
        self._read_only = read_only
        self._is_closed = False
        self.opened_at = time.monotonic()
        self._connect()

    def _connect(self) -> None:
        daemon = read_daemon(self.host.directory)
        if not daemon.answers:
            raise HypervisorUnreachableError(
                self.uri,
                "cannot connect: Connection refused",
                "a libvirt that answers",
                "the simulated daemon is away: try again",
            )
        #: How often the daemon had died when the connection was made.
        self._deaths = daemon.deaths
        self.reach("connect", "call")

    def begin(self, op: str, *, where: str = "", call: str = "") -> None:
        """Begin a call: check that there is a daemon, wait as long as the network would.

        Args:
            op: operation whose point "call" is reached.
            where: the domain it is about.
            call: libvirt's name of a call that changes something; a read-only connection refuses it.
        """
        if not self._is_closed and read_daemon(self.host.directory).deaths != self._deaths:
            self._connect()
        self.check()
        if call and self._read_only:
            found = f"operation forbidden: read only access prevents {call}"
            raise failure(OPERATION_DENIED, where or self.uri, found)
        if self.settings.latency_seconds:
            time.sleep(self.settings.latency_seconds)
        self.reach(op, "call", where)

    def check(self) -> None:
        """Raise what libvirt's client raises once the connection is closed, or the daemon has died."""
        if self._is_closed:
            raise failure(INVALID_CONN, self.uri, "invalid connection pointer")
        if read_daemon(self.host.directory).deaths != self._deaths:
            raise self.lost()

    def lost(self) -> EngineError:
        """Return the error of a call whose daemon has died."""
        return HypervisorUnreachableError(self.uri, "End of file while reading data: Input/output error")

    def reach(
        self,
        op: str,
        point: str,
        domain: str = "",
        *,
        check: Callable[[], None] = lambda: None,
        end_guest: Callable[[], None] = lambda: None,
    ) -> None:
        """Let the faults of this point strike.

        Args:
            op: operation.
            point: one of faults.POINTS[op].
            domain: name of the domain; may be empty.
            check: raises when a hang need not go on.
            end_guest: lets the guest die.

        Raises:
            EngineError: what a fault says.
        """
        for fault in self._striking(op, point, domain):
            where = f"simulated fault at {op}.{point}"
            if fault.action == "error":
                raise failure(int(fault.value or INTERNAL_ERROR), domain or self.uri, where)
            if fault.action == "hang":
                self._hang(fault, check)
            elif fault.action == "crash":
                self.crash(fault.value or 0.0)
                raise self.lost()
            else:
                end_guest()
                raise failure(INTERNAL_ERROR, domain, f"guest unexpectedly quit ({where})")

    def crash(self, away_seconds: float) -> None:
        """Let the daemon die and be back after so long: jobs are undone, guests go on."""
        now = time.monotonic()
        with self.host.locked():
            end_daemon(self.host.directory, away_seconds)
        self.host.change_all(lambda domain: domain.undone(now))

    def close(self) -> None:
        """End the connection."""
        self._is_closed = True

    def _hang(self, fault: Fault, check: Callable[[], None]) -> None:
        deadline = None if fault.value is None else time.monotonic() + fault.value
        while deadline is None or time.monotonic() < deadline:
            check()
            if fault not in self._faults():
                return
            time.sleep(_POLL_SECONDS)

    def _faults(self) -> tuple[Fault, ...]:
        """Return the faults of this connection and those of the host's file, as it is now."""
        try:
            lines = (self.host.directory / "faults").read_text().splitlines()
        except FileNotFoundError:
            return self.settings.faults
        wanted = (line.strip() for line in lines)
        return *self.settings.faults, *(parse_fault(line) for line in wanted if line and line[0] != "#")

    def _striking(self, op: str, point: str, domain: str) -> Iterator[Fault]:
        for fault in self._faults():
            if fault.strikes(op, point, domain) and self._count(fault):
                yield fault

    def _count(self, fault: Fault) -> bool:
        """Count a strike, over all processes; return False once the fault has struck often enough."""
        if fault.times is None:
            return True
        path = self.host.directory / "fault-counts.json"
        with self.host.locked():
            counts: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
            counts[fault.text] = counts.get(fault.text, 0) + 1
            if counts[fault.text] <= fault.times:
                path.write_text(json.dumps(counts))
            return counts[fault.text] <= fault.times
