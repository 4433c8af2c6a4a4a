"""List what can go wrong in a save, step by step: the table that the tests walk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from engine.directio import target
from engine.errors import (
    BypassError,
    DomainBusyError,
    EngineError,
    HypervisorError,
    NoSpaceError,
    StorageError,
    WrongStateError,
)
from engine.hypervisor import stream
from engine.steps import Step
from tests.fault.world import IO_ERROR, NO_SPACE, World, refusal

IMAGE: Final = "memory.save"
BROKEN: Final = HypervisorError("web-1", "injected")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong on the way to a step."""

    name: str
    arrange: Callable[[World, pytest.MonkeyPatch], object]
    error: type[BaseException]


def disk_fault(
    name: str, call: str, effect: Any, error: type[EngineError], *, file: str = IMAGE, nth: int = 0
) -> Fault:
    """Return the fault of one system call on one file."""
    return Fault(
        name=name,
        arrange=lambda world, _: world.disk.plan(call, effect, name=file, nth=nth),
        error=error,
    )


def libvirt_fault(moment: str) -> Fault:
    """Return the fault of libvirt at one moment of its own work."""
    return Fault(
        name=f"libvirt-{moment}",
        arrange=lambda world, _: world.hypervisor.faults.update({moment: BROKEN}),
        error=HypervisorError,
    )


def refuse_reservation(_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system have no room for the whole image."""

    def full(_fd: int, _size: int) -> None:
        raise NO_SPACE

    monkeypatch.setattr(target, "reserve_space", full)


def refuse_pipes(_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process be out of descriptors."""

    class NoPipes:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def pipe2(self, _flags: int) -> tuple[int, int]:
            raise refusal(errno.EMFILE)

    monkeypatch.setattr(stream, "os", NoPipes())


def read_through_cache(world: World, _monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody read the staged image through the page cache before it is looked at."""

    def read() -> None:
        (staged,) = [*world.images.glob(f".fleetsave-*/{IMAGE}"), *world.store.glob(f".staging/*/{IMAGE}")]
        staged.read_bytes()

    world.listener.at[Step.SYNCED] = read


def short(real: Callable[..., int], fd: int, data: memoryview, offset: int) -> int:
    """Write less than whole blocks."""
    return real(fd, data[:1536], offset) if data.nbytes > 1536 else 0


def nothing(_real: Callable[..., int], _fd: int, _data: memoryview, _offset: int) -> int:
    """Write nothing and say so."""
    return 0


def damaged(real: Callable[..., int], fd: int, buffers: list[memoryview], offset: int) -> int:
    """Read other bytes than were written."""
    count = real(fd, buffers, offset)
    buffers[0][:16] = b"LibvirtQemudPart"
    return count


#: What can go wrong between the step before and this one.
FAULTS: Final[dict[Step, tuple[Fault, ...]]] = {
    Step.PREFLIGHT: (
        Fault(
            name="huge-guest",
            arrange=lambda world, _: _let(world, memory_bytes=1 << 60, resident_memory_bytes=1 << 60),
            error=NoSpaceError,
        ),
        Fault(
            name="shut-off", arrange=lambda w, _: _let(w, run_id=-1, state="shut off"), error=WrongStateError
        ),
        Fault(name="crashed", arrange=lambda w, _: _let(w, state="crashed"), error=WrongStateError),
        Fault(name="busy", arrange=lambda w, _: _let(w, running_job="save"), error=DomainBusyError),
    ),
    Step.STAGING: (
        disk_fault("record-EIO", "fsync", IO_ERROR, StorageError, file="record.json.new"),
        disk_fault("record-ENOSPC", "fsync", NO_SPACE, NoSpaceError, file="record.json.new"),
    ),
    Step.CALL: (
        disk_fault("open-EIO", "open", IO_ERROR, StorageError),
        disk_fault("open-ENOSPC", "open", NO_SPACE, NoSpaceError),
        disk_fault("open-EINVAL", "open", refusal(errno.EINVAL), BypassError),
        Fault(name="reserve-ENOSPC", arrange=refuse_reservation, error=NoSpaceError),
        Fault(name="no-descriptors", arrange=refuse_pipes, error=OSError),
    ),
    Step.OPENED: (libvirt_fault("opening"), libvirt_fault("opened")),
    # To have seen the first byte is all there is to it.
    Step.STREAM: (),
    Step.DRAINED: tuple(
        disk_fault(f"write-{number}-{name}", "pwrite", effect, error, nth=number)
        for number in range(3)
        for name, effect, error in (
            ("ENOSPC", NO_SPACE, NoSpaceError),
            ("EDQUOT", refusal(errno.EDQUOT), NoSpaceError),
            ("EIO", IO_ERROR, StorageError),
            ("short", short, StorageError),
            ("nothing", nothing, StorageError),
        )
    ),
    Step.SYNCED: (
        disk_fault("truncate-EIO", "ftruncate", IO_ERROR, StorageError),
        disk_fault("sync-EIO", "fsync", IO_ERROR, StorageError),
        disk_fault("sync-ENOSPC", "fsync", NO_SPACE, NoSpaceError),
    ),
    Step.VERIFIED: (
        # The stream ends as if it were whole; that libvirt does not come to the gate tells.
        *(libvirt_fault(moment) for moment in ("head", "midstream", "closed")),
        disk_fault("header-ENOSPC", "pwrite", NO_SPACE, NoSpaceError, nth=3),
        disk_fault("header-EIO", "pwrite", IO_ERROR, StorageError, nth=3),
        disk_fault("header-short", "pwrite", short, StorageError, nth=3),
        disk_fault("truncate-EIO", "ftruncate", IO_ERROR, StorageError, nth=1),
        disk_fault("sync-EIO", "fsync", IO_ERROR, StorageError, nth=1),
        disk_fault("read-back-EIO", "preadv", IO_ERROR, StorageError),
        disk_fault("read-back-damaged", "preadv", damaged, EngineError),
        Fault(name="resident-pages", arrange=read_through_cache, error=BypassError),
    ),
    Step.PREPARED: (
        disk_fault("manifest-EIO", "fsync", IO_ERROR, StorageError, file="manifest.json.new"),
        disk_fault("manifest-ENOSPC", "fsync", NO_SPACE, NoSpaceError, file="manifest.json.new"),
        disk_fault("record-EIO", "fsync", IO_ERROR, StorageError, file="record.json.new", nth=1),
    ),
    # Nothing is done between "prepared" and the point of no return except to say so.
    Step.COMMIT: (),
    Step.COMMITTED: (libvirt_fault("reopened"), libvirt_fault("committed")),
    # Once the guest is gone a failure keeps the image: tests of their own below.
    Step.PUBLISHED: (),
    Step.DONE: (),
}


def _let(world: World, **fields: Any) -> None:
    """Let the domain be otherwise than it was."""
    world.hypervisor.domain = world.before = replace(world.hypervisor.domain, **fields)
