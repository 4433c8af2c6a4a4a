"""Look at everything after a fault has struck, and say in a few words what became of it."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine import image_verify
from tests.e2e.faults.faults import Cell
from tests.e2e.faults.scene import Scene, recover

#: Seconds in which a guest has to be what it was.
BACK_SECONDS: Final = 10.0
#: Seconds in which libvirt has to answer.
ANSWER_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02
_KILLED: Final = -9
_RUNS: Final = "running"
_OFF: Final = "shut off"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is after one cell."""

    #: Exit status of the engine; -9 when it was killed.
    status: int
    #: libvirt's word for the guest.
    state: str
    #: An image is under the final name before and after recovery.
    is_visible: bool
    is_published: bool
    #: What recovery said it did.
    recovered: tuple[str, ...]
    #: From the fault until the guest was what it was, seconds.
    seconds: float

    def words(self, op: str) -> str:
        """Return the cell of the report."""
        status = "killed" if self.status == _KILLED else str(self.status)
        is_on = self.state == _RUNS
        if op == "restore":
            said = "runs" if is_on else "off"
        elif self.is_published:
            said = {True: "runs, image", False: "saved" if op == "save" else "gone, image"}[is_on]
            said += "" if self.is_visible else " by recovery"
        else:
            said = self.state if self.state not in {_RUNS, _OFF} else "runs" if is_on else "gone"
        kinds = [kind for kind in self.recovered if kind != "published"]
        return f"{status}: {', '.join([said, *kinds])}"


def judge(scene: Scene, cell: Cell, status: int) -> Outcome:
    """Check after a fault what must hold after every fault; return what was seen.

    Raises:
        AssertionError: a promise is broken.
        SandboxError, subprocess.TimeoutExpired: libvirt does not answer, or the guest does not go on.
    """
    host = scene.host
    host.virsh("list", timeout=ANSWER_SECONDS)
    state = _wait_settled(scene)
    seconds = time.monotonic() - scene.struck_at
    is_visible = bool(scene.visible())
    recovered = tuple(one["kind"] for one in recover(host, scene.folder))
    assert "undecided" not in recovered
    assert scene.leftovers() == [], "staging or runtime directory left after recovery"
    assert scene.guest.state() == state
    if state == _RUNS:
        _check_counting(scene)
    outcome = Outcome(
        status=status,
        state=state,
        is_visible=is_visible,
        is_published=_check_image(scene),
        recovered=recovered,
        seconds=seconds,
    )
    _check_promises(cell, outcome)
    return outcome


def _wait_settled(scene: Scene) -> str:
    """Return the guest's state once it is one that it may be left in."""
    settled = {_RUNS, _OFF}
    deadline = scene.struck_at + BACK_SECONDS
    while (state := scene.guest.state()) not in settled and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    assert state in settled, f"{state} {BACK_SECONDS:g} s after the fault"
    return state


def _check_counting(scene: Scene) -> None:
    """See that the guest goes on from where it was; a restored one from where its image was taken."""
    if scene.op == "restore":
        scene.guest.wait_counting(BACK_SECONDS)
    else:
        scene.guest.wait_counter_beyond(scene.counter + 1, BACK_SECONDS)


def _check_image(scene: Scene) -> bool:
    """Tell whether an image is there; it is whole, with its manifest, or there is nothing at all."""
    names = scene.visible()
    if not names:
        return False
    assert names == [scene.image.name, f"{scene.image.name}.manifest.json"]
    manifest = json.loads(Path(f"{scene.image}.manifest.json").read_text())
    assert manifest["image_bytes"] == scene.image.stat().st_size
    # Every byte against the manifest's checksums.
    image_verify(scene.image)
    return True


def _check_promises(cell: Cell, outcome: Outcome) -> None:
    is_on = outcome.state == _RUNS
    if outcome.status == 0:
        assert outcome.recovered == ()
        assert cell.op == "restore" or outcome.is_visible
    if cell.op == "save":
        assert not (is_on and outcome.is_published), "the guest runs, and its image is there"
        assert is_on or outcome.is_published or cell.fault.kills_guest, "the guest is lost"
    if cell.op == "checkpoint":
        assert is_on or cell.fault.kills_guest, "the guest is lost"
    if cell.op == "restore":
        assert outcome.recovered == ()
        assert not outcome.is_published
