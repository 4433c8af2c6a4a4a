"""A managed save that fails gives the guest the state it had, which libvirt forgets."""

from pathlib import Path

import pytest

from engine import Engine, EngineError, SaveFlags
from engine.hypervisor.sim.hypervisor import SimHypervisor

_FAILS = "fault=managed-save.memory:error=9"


@pytest.mark.parametrize(
    ("flag", "state"),
    [(SaveFlags.PAUSED, "running"), (SaveFlags.RUNNING, "paused"), (SaveFlags.NONE, "running")],
)
def test_failed_managed_save_keeps_the_state(tmp_path: Path, flag: SaveFlags, state: str) -> None:
    """Whatever the flags asked for the image, the guest that goes on is as it was."""
    uri = f"sim://{tmp_path}/fleet?domains=1&{_FAILS}"
    guests = SimHypervisor(uri)
    if state == "paused":
        guests.suspend("sim-0000")

    with Engine(uri, runtime_dir=tmp_path / "run") as engine, pytest.raises(EngineError):
        engine.managed_save("sim-0000", flag)

    assert guests.find_domain("sim-0000").state == state
    guests.close()
