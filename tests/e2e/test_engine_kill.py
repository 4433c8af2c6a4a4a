"""SIGKILL of the engine, on a real guest: it goes on, libvirt answers, nothing shows under the final name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import Guest
from engine.steps import Step

pytestmark = pytest.mark.e2e

#: Events after which libvirt has not been let go on: whatever dies, the guest stays.
BEFORE_COMMIT = [
    Step.CALL, Step.OPENED, Step.STREAM, "progress", Step.DRAINED, Step.SYNCED, Step.VERIFIED, Step.PREPARED,
]  # fmt: skip


@pytest.mark.parametrize("step", BEFORE_COMMIT)
def test_killed_engine_leaves_the_guest_running(
    steady_guest: Guest, folder: Path, start_engine: Callable[..., Any], step: str
) -> None:
    """Nobody has to come and help: the kernel closes the gate, libvirt lets the guest go on."""
    host = steady_guest.host
    image = folder / f"killed-{step}.save"
    engine = start_engine(host, op="save", domain=steady_guest.name, to=str(image), hold_at=str(step))
    engine.wait_for(str(step))
    before = steady_guest.counter()

    engine.kill()

    steady_guest.wait_state("running", timeout=10)
    steady_guest.wait_counter_beyond(before + 2, timeout=10)
    assert steady_guest.name in host.virsh("list", timeout=5)
    assert not image.exists()
    assert not image.with_name(f"{image.name}.manifest.json").exists()


@pytest.mark.parametrize("step", [Step.CALL, Step.STREAM, Step.SYNCED, Step.PREPARED])
def test_cancelled_engine_puts_the_guest_back(
    steady_guest: Guest, folder: Path, start_engine: Callable[..., Any], step: Step
) -> None:
    """SIGTERM before the point of no return: exit 130, guest running, no staging left."""
    host = steady_guest.host
    image = folder / f"cancelled-{step}.save"
    engine = start_engine(host, op="save", domain=steady_guest.name, to=str(image), hold_at=step.value)
    engine.wait_for(step.value)
    before = steady_guest.counter()

    engine.process.terminate()

    assert engine.wait() == 130
    assert engine.error["class"] == "CancelledError"
    steady_guest.wait_counter_beyond(before + 2, timeout=10)
    assert not image.exists()
    assert not list(folder.iterdir())
