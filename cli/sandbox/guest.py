"""A test guest on one host: started, watched through its serial port, removed.

The guest counts aloud from memory only: a counter that goes on after a restore proves that memory came back.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.sandbox.domain import GuestSpec
from cli.sandbox.errors import SandboxError
from cli.sandbox.processes import POLL_SECONDS

if TYPE_CHECKING:
    from cli.sandbox.host import Host

_COUNTER: Final = re.compile(rb"^counter (\d+)\r?$", re.MULTILINE)
_MEMORY: Final = re.compile(rb"^memory ([0-9a-f]{32})\r?$", re.MULTILINE)
_CHECKS: Final = re.compile(rb"^memory (ok|BAD)\r?$", re.MULTILINE)
#: How much of what the guest printed last goes into an error, bytes.
_TAIL: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One domain of a host, and what its guest has printed on any host so far."""

    host: "Host"
    spec: GuestSpec
    #: Domain XML it was defined with.
    xml: str
    #: What the guest printed since it was first started: one file, whichever host it runs on.
    serial: Path

    @property
    def name(self) -> str:
        """Name of the domain."""
        return self.spec.name

    def start(self, *, paused: bool = False) -> None:
        """Start the guest; a transient one is defined by that.

        Raises:
            SandboxError: libvirt refused.
        """
        options = ["--paused"] if paused else []
        if self.spec.transient:
            self.host.virsh("create", self.write_xml(), *options)
        else:
            self.host.virsh("start", self.name, *options)

    def write_xml(self) -> Path:
        """Write the domain XML to a file in the host's home, for virsh; return its path."""
        # Not through a pipe: one that root made cannot be opened anew as /dev/stdin by another user.
        path = self.host.home / f"{self.spec.uuid}.xml"
        path.write_text(self.xml)
        path.chmod(0o644)
        return path

    def state(self) -> str:
        """Return the state as `virsh domstate` says it: running, paused, shut off."""
        return self.host.virsh("domstate", self.name).strip()

    def counters(self) -> list[int]:
        """Return all numbers the guest has printed, oldest first; a guest that boots again begins at 1."""
        return [int(number) for number in _COUNTER.findall(self.serial.read_bytes())]

    def counter(self) -> int:
        """Return the last number the guest has printed, 0 before the first."""
        return next(iter(reversed(self.counters())), 0)

    def memory_checksum(self) -> str:
        """Return the MD5 of what the guest filled its memory with at its last start, "" before that."""
        return next(reversed(_MEMORY.findall(self.serial.read_bytes())), b"").decode()

    def memory_ok(self) -> bool:
        """Tell whether the guest has checked its memory at least once and never found it changed."""
        return set(self._memory_checks()) == {b"ok"}

    def wait_counting(self, timeout: float = 60) -> int:
        """Wait until the guest prints numbers it had not printed before; return the newest.

        Raises:
            SandboxError: the time is up; the text ends with what the guest printed last.
        """
        printed = len(self.counters())
        self._wait(lambda: len(self.counters()) > printed, "counts", timeout)
        return self.counter()

    def wait_counter_beyond(self, number: int, timeout: float = 60) -> int:
        """Wait until the last number printed is above `number`; return it.

        Raises:
            SandboxError: the time is up; the text ends with what the guest printed last.
        """
        self._wait(lambda: self.counter() > number, f"counts beyond {number}", timeout)
        return self.counter()

    def wait_memory_checked(self, timeout: float = 60) -> None:
        """Wait until the guest has compared some of its memory once more.

        Raises:
            SandboxError: the time is up.
        """
        seen = len(_CHECKS.findall(self.serial.read_bytes()))
        self._wait(
            lambda: len(_CHECKS.findall(self.serial.read_bytes())) > seen, "checks its memory", timeout
        )

    def wait_state(self, state: str, timeout: float = 30) -> None:
        """Wait until `virsh domstate` says so.

        Raises:
            SandboxError: the time is up.
        """
        self._wait(lambda: self.state() == state, f"is {state}", timeout)

    def remove(self) -> None:
        """Stop the guest and undefine the domain, its managed save with it; one that is gone is no error."""
        if self.name not in self.host.domain_names():
            return
        if self.state() != "shut off":
            self.host.virsh("destroy", self.name)
        if self.name in self.host.domain_names():
            self.host.virsh("undefine", self.name, "--managed-save", "--snapshots-metadata", "--nvram")

    def _memory_checks(self) -> list[bytes]:
        return _CHECKS.findall(self.serial.read_bytes())

    def _wait(self, is_reached: Callable[[], bool], wanted: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not is_reached():
            if time.monotonic() > deadline:
                tail = self.serial.read_bytes()[-_TAIL:].decode(errors="replace")
                raise SandboxError(
                    f"guest {self.name} on {self.host.name}: waited {timeout:g} s until it {wanted}; "
                    f"it last printed: {tail or 'nothing'}",
                )
            time.sleep(POLL_SECONDS)
