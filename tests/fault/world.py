"""Give the use cases a hypervisor in memory, a disk that fails on command, and eyes on what is left."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from lxml import etree

from engine.cancel import CancelToken
from engine.checkpoint import checkpoint
from engine.errors import (
    EngineError,
    HypervisorError,
    NoDomainError,
    NotSupportedError,
    StorageError,
    WrongStateError,
)
from engine.flags import SaveFlags
from engine.hypervisor.port import Domain, Hypervisor, Versions
from engine.newxml import XmlWish
from engine.operation import Operation
from engine.outcome import Outcome
from engine.restore import restore
from engine.save import save
from engine.steps import Step
from engine.streamsave import SaveOptions
from engine.units import KiB, MiB
from tests.data.libvirt_peer import make_image, restore_from, save_to

UUID: Final = "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"
XML: Final = (
    f"<domain type='qemu'><name>web-1</name><uuid>{UUID}</uuid>"
    "<os><type machine='pc-q35-10.0'>hvm</type></os><description>{}</description></domain>"
).format("x" * 3000)
#: QEMU starts a guest whose stream lacks its last few KiB: it skips the description there.
QEMU_SKIPS: Final = 4 * KiB


@cache
def guest_memory(size: int) -> bytes:
    """Return bytes that no other guest has."""
    return random.Random(size).randbytes(size)  # noqa: S311 - nobody is to be kept from guessing them


class MemoryHypervisor:
    """One domain whose memory is a bytes object; libvirt's part is played by the peer, in our threads.

    It has what operations through the stream ask of a hypervisor, and nothing else.
    """

    is_simulated = True
    driver = "qemu"

    def __init__(self, *, memory: bytes, state: str = "running") -> None:
        self.memory = memory
        self.domain = Domain(
            name="web-1",
            uuid=UUID,
            run_id=7 if state != "shut off" else -1,
            state=state,
            is_persistent=True,
            memory_bytes=len(memory),
            resident_memory_bytes=len(memory),
            has_managed_save=False,
            running_job="",
            is_paused_by_user=state == "paused",
        )
        #: Moments of the peer at which libvirt fails, and with what.
        self.faults: dict[str, Exception] = {}
        #: Moments of the peer at which something happens beside it.
        self.hooks: dict[str, Callable[[], None]] = {}
        #: libvirt fails to let the guest go on after a failed save.
        self.leaves_paused = False
        #: The connection is gone from this moment of the peer on.
        self.goes_away_at = ""
        self.is_away = False
        #: What libvirt says after a save although the guest is gone.
        self.late_error: Exception | None = None
        #: Written instead of a save image.
        self.garbage = b""
        self.max_downtime = 0.0
        #: QEMU does not overlook that the end of its stream is missing.
        self.needs_every_byte = False
        self.moments: list[str] = []
        #: What QEMU got of the last restore.
        self.received = bytearray()
        self._events: list[tuple[float, str]] = []

    def know_memory(self, size: int) -> None:
        """Say that the guest has so much memory, whatever it has."""
        self.domain = replace(self.domain, memory_bytes=size, resident_memory_bytes=size)

    def versions(self) -> Versions:
        """Return made-up versions."""
        return Versions(libvirt="11.3.0", hypervisor="10.0.0")

    def capabilities(self) -> str:
        """Say nothing of a host: there is none."""
        raise NotSupportedError("memory:///", "no host")

    def list_domains(self) -> list[Domain]:
        """Return the one domain."""
        if self.is_away:
            raise HypervisorError("memory:///", "connection reset by peer")
        return [self.domain]

    def find_domain(self, name_or_uuid: str) -> Domain:
        """Return the one domain."""
        (domain,) = self.list_domains()
        if name_or_uuid not in {domain.name, domain.uuid}:
            raise NoDomainError(name_or_uuid, "no such domain")
        return domain

    def domain_xml(self, uuid: str, *, migratable: bool = False) -> str:
        """Return the one domain's XML."""
        assert uuid == UUID
        assert migratable in {True, False}
        return XML

    def save(self, uuid: str, path: str, dxml: str | None, flags: int) -> None:
        """Pause the guest, write it to the path, end it; let it go on if anything fails."""
        assert (uuid, flags) == (UUID, 0)
        before = self.domain
        self._become("paused", "paused")
        self._write(path, dxml or XML, before)
        self.domain = replace(self.domain, run_id=-1)
        self._become("shut off", "stopped")
        if self.late_error is not None:
            raise self.late_error

    def checkpoint(self, uuid: str, snapshot_xml: str) -> None:
        """Write the guest to the path in the XML; it stands still for the end of that only."""
        assert uuid == UUID
        before = self.domain
        path = etree.fromstring(snapshot_xml).find("memory").get("file")  # type: ignore[union-attr]
        self.hooks.setdefault("midstream", lambda: self._become("paused", "paused"))
        self._write(str(path), XML, before)
        self._become(before.state, "resumed")

    def set_max_downtime(self, uuid: str, seconds: float) -> None:
        """Note the bound."""
        assert uuid == UUID
        self.max_downtime = seconds

    def restore(self, path: str, dxml: str | None, flags: int) -> None:
        """Start the guest if QEMU got all that it looks at."""
        assert dxml is None or dxml.startswith("<domain")
        if self.domain.is_active:
            raise WrongStateError("web-1", "domain is already active")
        self.received = bytearray()
        try:
            restore_from(path, self._reach, self.received)
        except OSError as error:
            raise HypervisorError("web-1", f"failed to read: {error.strerror}") from error
        size = len(make_image(XML, self.memory))
        least = size if self.needs_every_byte else size - QEMU_SKIPS
        if len(self.received) < least or not self.received.endswith(
            self.memory[: len(self.received) - (size - len(self.memory))]
        ):
            raise HypervisorError("web-1", "load of migration failed")
        state = "paused" if flags & SaveFlags.PAUSED else "running"
        self.domain = replace(self.domain, run_id=8)
        self._become(state, "resumed")

    def resume(self, uuid: str) -> None:
        """Let the guest run."""
        assert uuid == UUID
        self._become("running", "resumed")

    def pauses(self, uuid: str) -> list[tuple[float, str]]:
        """Return what the guest's CPUs did."""
        assert uuid == UUID
        return list(self._events)

    def close(self) -> None:
        """Do nothing."""

    def _write(self, path: str, xml: str, before: Domain) -> None:
        """Go through libvirt's two visits; let the guest go on if they fail."""
        image = self.garbage or make_image(xml, self.memory, was_running=before.is_running)
        try:
            save_to(path, image, self._reach)
        except (OSError, EngineError) as error:
            if not self.leaves_paused:
                self._become(before.state, "resumed")
            if isinstance(error, EngineError):
                raise
            found = f"failed to write header to domain save file: {error.strerror}"
            raise StorageError("web-1", found) from error

    def _become(self, state: str, event: str) -> None:
        self.domain = replace(self.domain, state=state)
        self._events.append((time.monotonic(), event))

    def _reach(self, moment: str) -> None:
        self.moments.append(moment)
        self.is_away = self.is_away or moment == self.goes_away_at
        if moment in self.hooks:
            self.hooks[moment]()
        if moment in self.faults:
            raise self.faults[moment]


class Listener:
    """Notes what it is told; does at a step what a test wants done there."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.guest_states: list[str] = []
        self.at: dict[Step, Callable[[], None]] = {}

    def step(self, step: Step) -> None:
        """Note the step."""
        self.steps.append(step)
        if step in self.at:
            self.at[step]()

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """See that progress makes sense."""
        assert total_bytes is not None
        assert 0 <= done_bytes <= total_bytes

    def guest(self, state: str) -> None:
        """Note the guest's state."""
        self.guest_states.append(state)


class FaultyOs:
    """The os module, except that the nth call of a function on a file of some name fails."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, str], dict[int, Any]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def plan(self, call: str, effect: OSError | Callable[..., Any], *, name: str, nth: int = 0) -> None:
        """Let the nth call of os.<call> on files called `name` have this effect instead."""
        self._plans.setdefault((call, name), {})[nth] = effect

    def __getattr__(self, call: str) -> Any:
        real = getattr(os, call)
        if not any(call == planned for planned, _ in self._plans):
            return real

        def faulty(target: int | str | Path, *arguments: Any, **options: Any) -> Any:
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)
            key = call, path.name
            with self._lock:
                effect = self._plans.get(key, {}).get(self._counts[key])
                self._counts[key] += 1
            if isinstance(effect, OSError):
                raise effect
            if effect is not None:
                return effect(real, target, *arguments, **options)
            return real(target, *arguments, **options)

        return faulty


def refusal(code: int) -> OSError:
    """Return what a system call raises for this errno."""
    return OSError(code, os.strerror(code))


NO_SPACE: Final = refusal(errno.ENOSPC)
IO_ERROR: Final = refusal(errno.EIO)


@dataclass
class World:
    """One host: a guest, a directory for images, what listens, and the one job that runs."""

    folder: Path
    hypervisor: MemoryHypervisor
    disk: FaultyOs
    job_id: str = "job-1"
    listener: Listener = field(default_factory=Listener)
    cancel: CancelToken = field(default_factory=CancelToken)

    def __post_init__(self) -> None:
        """Lay an older image beside the new one's place, and an older point into the store."""
        self.images = self.folder / "images"
        self.store = self.folder / "store"
        self.final = self.images / "new.save"
        older_point = self.store / UUID / "20260101T000000Z-old"
        older_point.mkdir(parents=True, mode=0o700)
        self.images.mkdir(mode=0o700)
        for old in (self.images / "old.save", older_point / "memory.save"):
            old.write_bytes(b"an older image")
        self.before = self.hypervisor.domain
        self.files_before = self.files()

    def begin_anew(self) -> None:
        """Take what is now for what was before the job; listen anew."""
        self.before, self.files_before = self.hypervisor.domain, self.files()
        self.hypervisor.moments.clear()
        self.hypervisor.hooks.clear()
        self.listener.steps.clear()

    def read_image(self) -> None:
        """Read the image as any program would, through the page cache."""
        self.final.read_bytes()

    def operation(self) -> Operation:
        """Return the surroundings of the job."""
        return Operation(
            job_id=self.job_id,
            host="here",
            hypervisor=cast("Hypervisor", self.hypervisor),
            runtime_dir=self.folder / "run",
            observer=self.listener,
            cancel=self.cancel,
            store=self.store,
        )

    def save(self, *, kind: str = "file", dxml: str | None = None, **options: Any) -> Outcome:
        """Save the guest into a "file" or a "point", or take a "checkpoint" of it."""
        chosen = SaveOptions(**options)
        if kind == "checkpoint":
            return checkpoint(self.operation(), "web-1", None, options=chosen)
        to = self.final if kind == "file" else None
        return save(self.operation(), "web-1", to, wish=XmlWish(dxml=dxml), options=chosen)

    def restore(self, path: Path | None = None, **options: Any) -> Outcome:
        """Restore the guest from the new image."""
        return restore(self.operation(), path or self.final, **options)

    def files(self) -> dict[str, bytes]:
        """Return every file under the images' directory and the store."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for root in (self.images, self.store)
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def assert_nothing_happened(self) -> None:
        """See that the guest, the old images and the directories are what they were before the job."""
        domain = self.hypervisor.domain
        assert (domain.state, domain.run_id) == (self.before.state, self.before.run_id)
        assert self.files() == self.files_before
        self.assert_nothing_is_left()

    def assert_nothing_is_left(self) -> None:
        """See that no directory of the job stayed, nor any descriptor or thread of it."""
        left = [*self.images.rglob(".*"), *(self.store / ".staging").glob("*")]
        left += list((self.folder / "run" / "jobs").glob("*"))
        assert left == []
        names = {thread.name for thread in threading.enumerate()}
        assert "hypervisor-call" not in names

    def assert_saved(self, image: Path) -> None:
        """See that the guest is gone and its image whole, with its manifest."""
        assert not self.hypervisor.domain.is_active
        memory, was_running = self.hypervisor.memory, self.before.is_running
        assert image.read_bytes() == make_image(XML, memory, was_running=was_running)
        assert {name: self.files()[name] for name in self.files_before} == self.files_before


#: Two buffers and a bit: a first, a middle and a last write, then the header's.
SAVED_SIZE: Final = 5 * MiB + 123
#: More than what is held back at the end, so that something is delivered before.
RESTORED_SIZE: Final = 8 * MiB + 321
