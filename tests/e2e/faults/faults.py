"""List what strikes an operation at a step: the columns of the fault matrix."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from engine.steps import RESTORE_STEPS, SAVE_STEPS, Step
from tests.e2e.faults.scene import MID_STREAM, SUPERVISOR, Scene, kill_and_wait

#: Seconds that libvirt gets to answer a cancel of its job; while it stands at the gate it cannot.
_ABORT_SECONDS: Final = 0.5
#: Writes that a broken disk still takes where memory streams, so that it breaks in the middle.
_WRITES_BEFORE: Final = 3

SAVES: Final = frozenset({"save", "checkpoint"})
ALL: Final = SAVES | {"restore"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that happens while an operation is at a step."""

    name: str
    #: For the legend of the report.
    meaning: str
    #: Makes it happen; returns the engine's exit status once it has ended.
    strike: Callable[[Scene], int]
    #: Operations it makes sense for.
    ops: frozenset[str] = ALL
    #: The guest ends by itself: it is not the engine that has to keep it.
    kills_guest: bool = False


def _kill(scene: Scene) -> int:
    engine = scene.start_held()
    scene.strike()
    engine.kill()
    return engine.process.returncode


def _kill_both(scene: Scene) -> int:
    engine = scene.start_held(*SUPERVISOR)
    scene.strike()
    os.killpg(engine.process.pid, signal.SIGKILL)
    return engine.wait()


def _cancel(scene: Scene) -> int:
    engine = scene.start_held()
    scene.strike()
    engine.process.terminate()
    return engine.wait()


def _break_disk(scene: Scene, effect: str) -> int:
    # Of the first bytes that pass nothing is written yet: let some of them reach the disk.
    skip = _WRITES_BEFORE if scene.step == MID_STREAM else 0
    scene.strike()
    return scene.start_faulty(effect, skip=skip).wait()


def _abort_job(scene: Scene) -> int:
    with scene.pause_engine() as engine:
        scene.strike()
        abort = scene.host.popen(
            ["virsh", "-q", "-c", scene.host.uri, "domjobabort", scene.guest.name],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # While it stands at the gate libvirt answers only when the engine has gone on.
        with suppress(subprocess.TimeoutExpired):
            abort.wait(_ABORT_SECONDS)
    status = engine.wait()
    abort.wait(30)
    return status


def _kill_guest(scene: Scene) -> int:
    with scene.pause_engine() as engine:
        scene.strike()
        kill_and_wait(scene.guest_pid())
    return engine.wait()


def _kill_guest_then_cancel(scene: Scene) -> int:
    engine = scene.start_held()
    scene.strike()
    kill_and_wait(scene.guest_pid())
    engine.process.terminate()
    return engine.wait()


def _kill_guest_then_engine(scene: Scene) -> int:
    engine = scene.start_held()
    scene.strike()
    kill_and_wait(scene.guest_pid())
    engine.kill()
    return engine.process.returncode


def _kill_daemon(scene: Scene) -> int:
    with scene.pause_engine() as engine:
        scene.strike()
        kill_and_wait(scene.daemon_pid())
        # The client library starts another one; a system has systemd for that.
        scene.host.virsh("list", timeout=30)
    return engine.wait()


FAULTS: Final = (
    Fault(
        name="kill",
        meaning="SIGKILL of the engine; nobody comes to help before the guest is looked at",
        strike=_kill,
    ),
    Fault(
        name="kill both",
        meaning="SIGKILL of the engine and of its parent in the same instant",
        strike=_kill_both,
    ),
    Fault(name="cancel", meaning="SIGTERM", strike=_cancel),
    Fault(
        name="ENOSPC",
        meaning="from here on the disk is full, and stays so",
        strike=partial(_break_disk, effect="ENOSPC"),
        ops=SAVES,
    ),
    Fault(
        name="EIO",
        meaning="from here on every read, write, sync, cut and rename on the disk fails",
        strike=partial(_break_disk, effect="EIO"),
    ),
    Fault(
        name="short",
        meaning="the next read or write transfers half of its blocks, as it may",
        strike=partial(_break_disk, effect="short"),
    ),
    Fault(
        name="torn",
        meaning="the next read or write ends inside a block",
        strike=partial(_break_disk, effect="torn"),
    ),
    Fault(name="job abort", meaning="`virsh domjobabort`", strike=_abort_job, ops=SAVES),
    Fault(
        name="libvirtd", meaning="SIGKILL of libvirtd; another one is started at once", strike=_kill_daemon
    ),
    Fault(name="guest", meaning="SIGKILL of the guest's QEMU", strike=_kill_guest, kills_guest=True),
    Fault(
        name="guest, cancel",
        meaning="SIGKILL of the guest's QEMU, then SIGTERM",
        strike=_kill_guest_then_cancel,
        kills_guest=True,
    ),
    Fault(
        name="guest, kill",
        meaning="SIGKILL of the guest's QEMU, then of the engine",
        strike=_kill_guest_then_engine,
        kills_guest=True,
    ),
)


def _with_middle(steps: tuple[Step, ...]) -> tuple[str, ...]:
    after = steps.index(Step.STREAM) + 1
    return (*steps[:after], MID_STREAM, *steps[after:])


#: Rows of the matrix, by operation: every step, and the middle of the stream.
ROWS: Final = {
    "save": _with_middle(SAVE_STEPS),
    "checkpoint": _with_middle(SAVE_STEPS),
    "restore": _with_middle(RESTORE_STEPS),
}
#: Steps at which no QEMU is there to be killed: after a save, and before libvirt starts a restore.
_NO_QEMU: Final = {
    "save": {Step.COMMITTED, Step.PUBLISHED, Step.DONE},
    "checkpoint": set(),
    "restore": {Step.PREFLIGHT, Step.CALL, Step.OPENED, Step.STREAM},
}


#: Where an image or a guest is lost most easily: looked at in every run of the tests.
_ALWAYS: Final = {
    (Step.PREPARED, "EIO"),
    (Step.PREPARED, "guest, cancel"),
    (Step.PREPARED, "guest, kill"),
    (Step.COMMIT, "kill"),
    (Step.COMMIT, "libvirtd"),
    (Step.COMMITTED, "kill"),
}
#: So many cells of a row lie between two others that are; each row begins at another one.
_STRIDE: Final = 5


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One operation, one row, one fault."""

    op: str
    row: str
    fault: Fault
    #: True for the cells that every run of the tests looks at.
    in_short_form: bool

    @property
    def name(self) -> str:
        """Name for people and for pytest."""
        return f"{self.op}-{self.row}-{self.fault.name.replace(', ', '+').replace(' ', '-')}"


def list_cells(op: str) -> list[Cell]:
    """Return the cells of one operation, row by row."""
    return [
        Cell(
            op=op,
            row=row,
            fault=fault,
            in_short_form=(number + place) % _STRIDE == 0 or (row, fault.name) in _ALWAYS,
        )
        for number, row in enumerate(ROWS[op])
        for place, fault in enumerate(_faults_at(op, row))
    ]


def _faults_at(op: str, row: str) -> list[Fault]:
    return [fault for fault in FAULTS if op in fault.ops and not (fault.kills_guest and row in _NO_QEMU[op])]
