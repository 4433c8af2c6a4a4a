"""Whatever a save was asked to leave behind, and whatever broke it: the guest stays as it was.

libvirt forgets what the guest was when it is called with RUNNING or PAUSED (docs/decisions/0002).
"""

import re

import pytest

from engine.steps import Step
from tests.e2e.faults.faults import FAULTS
from tests.e2e.faults.outcome import BACK_SECONDS
from tests.e2e.faults.scene import Scene, recover

pytestmark = pytest.mark.e2e

_FAULTS = {fault.name: fault for fault in FAULTS}
#: Each kind of fault once, spread over the steps at which the guest stands still for the save.
_STRIKES = [
    (Step.OPENED, "job abort"),
    (Step.STREAM, "kill"),
    (Step.DRAINED, "EIO"),
    (Step.SYNCED, "kill both"),
    (Step.VERIFIED, "ENOSPC"),
    (Step.PREPARED, "cancel"),
    (Step.PREPARED, "libvirtd"),
    (Step.COMMIT, "kill"),
]
_WISHES = [("running", {"paused": True}), ("paused", {"running": True}), ("paused", {})]
_IDS = ["running-asked-paused", "paused-asked-running", "paused"]


def check_state_kept(stage: Scene, state: str) -> None:
    """See that the guest is in the state it had, and that it counts on from where it was."""
    stage.guest.wait_state(state, BACK_SECONDS)
    recover(stage.host, stage.folder)
    assert stage.guest.state() == state
    assert stage.visible() == stage.leftovers() == []
    if state == "paused":
        assert stage.guest.counter() == stage.counter
        stage.host.virsh("resume", stage.guest.name)
    stage.guest.wait_counter_beyond(stage.counter + 1, BACK_SECONDS)


@pytest.mark.parametrize(("state", "wish"), _WISHES, ids=_IDS)
@pytest.mark.parametrize(("step", "fault"), _STRIKES)
def test_failed_save_keeps_the_state(
    stage: Scene, step: Step, fault: str, state: str, wish: dict[str, bool]
) -> None:
    """A running guest runs on though it was to be saved as paused, and the other way round."""
    stage.set_up("save", step, state=state, **wish)

    assert _FAULTS[fault].strike(stage) != 0

    check_state_kept(stage, state)


@pytest.mark.parametrize(("state", "wish"), _WISHES, ids=_IDS)
def test_dxml_that_libvirt_refuses_late_keeps_the_state(
    stage: Scene, state: str, wish: dict[str, bool]
) -> None:
    """Another memory size: libvirt compares the dxml only when it has stopped the guest."""
    xml = stage.host.virsh("dumpxml", stage.guest.name, "--migratable", "--security-info")
    other = re.sub(r"(?s)<memory .*?</currentMemory>", "<memory unit='MiB'>256</memory>", xml)
    stage.set_up("save", Step.CALL, state=state, dxml=other, **wish)
    stage.strike()

    assert stage.start().wait() == 11

    check_state_kept(stage, state)
