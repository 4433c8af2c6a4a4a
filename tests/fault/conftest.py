"""Give a host in memory whose disk and hypervisor fail where a test says so."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine import operation
from engine.directio import target
from engine.store import staging
from tests.fault.world import SAVED_SIZE, FaultyOs, MemoryHypervisor, World, guest_memory


@pytest.fixture
def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Give a function that makes the world of one job; it takes the guest's state and memory size."""
    disk = FaultyOs()
    monkeypatch.setattr(target, "os", disk)
    monkeypatch.setattr(staging, "os", disk)
    # A guest that libvirt left paused is resumed only after this.
    monkeypatch.setattr(operation, "PUT_BACK_SECONDS", 0.3)

    def make(*, state: str = "running", size: int = SAVED_SIZE) -> World:
        return World(tmp_path, MemoryHypervisor(memory=guest_memory(size), state=state), disk)

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Give a running guest."""
    return make_world()
