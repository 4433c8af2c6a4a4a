"""List what can go wrong in a restore, step by step: the table that the tests walk."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

import pytest

from engine.errors import BypassError, ChecksumError, EngineError, StorageError
from engine.steps import Step
from tests.fault.save_faults import Fault, libvirt_fault, refuse_pipes
from tests.fault.world import IO_ERROR, World, refusal

IMAGE: Final = "new.save"


def read_fault(name: str, effect: Any, error: type[EngineError], *, nth: int) -> Fault:
    """Return the fault of the nth read of the image; the first one is of its head."""
    return Fault(
        name=f"{name}-{nth}",
        arrange=lambda world, _: world.disk.plan("preadv", effect, name=IMAGE, nth=nth),
        error=error,
    )


def call_fault(call: str, code: int, error: type[EngineError]) -> Fault:
    """Return the fault of the first call on the image."""
    return Fault(
        name=f"{call}-{errno.errorcode[code]}",
        arrange=lambda world, _: world.disk.plan(call, refusal(code), name=IMAGE),
        error=error,
    )


def damaged(real: Callable[..., int], fd: int, buffers: list[memoryview], offset: int) -> int:
    """Read other bytes than are on the disk."""
    count = real(fd, buffers, offset)
    buffers[0][count // 2] ^= 1
    return count


def read_through_cache(world: World, _monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody read the image through the page cache meanwhile."""
    world.listener.at[Step.DRAINED] = world.read_image


#: What can go wrong between the step before and this one.
RESTORE_FAULTS: Final[dict[Step, tuple[Fault, ...]]] = {
    Step.PREFLIGHT: (
        call_fault("open", errno.EIO, StorageError),
        call_fault("open", errno.EINVAL, BypassError),
        call_fault("fdatasync", errno.EIO, StorageError),
        read_fault("EIO", IO_ERROR, StorageError, nth=0),
    ),
    Step.CALL: (Fault(name="no-descriptors", arrange=refuse_pipes, error=OSError),),
    Step.OPENED: (libvirt_fault("opening"), libvirt_fault("opened")),
    Step.STREAM: (read_fault("EIO", IO_ERROR, StorageError, nth=1),),
    Step.DRAINED: (
        *(libvirt_fault(moment) for moment in ("head", "closed", "reopened", "midstream")),
        *(read_fault("EIO", IO_ERROR, StorageError, nth=nth) for nth in (3, 5)),
        *(read_fault("damaged", damaged, ChecksumError, nth=nth) for nth in (1, 3, 5)),
    ),
    Step.VERIFIED: (Fault(name="resident-pages", arrange=read_through_cache, error=BypassError),),
    # To let the last bytes go is all there is to it.
    Step.COMMIT: (),
    Step.COMMITTED: (libvirt_fault("received"),),
    # Nothing is done any more.
    Step.DONE: (),
}
