"""What a dead engine left is put right: its image published if the guest is gone, swept if not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import Guest, Host
from engine.steps import Step

pytestmark = pytest.mark.e2e

_RECOVER = """
import dataclasses, json, sys
from engine import recover
found = recover(sys.argv[1], runtime_dir=sys.argv[2], directories=sys.argv[3:])
print(json.dumps([dataclasses.asdict(one) for one in found]))
"""


def recover(host: Host, *directories: Path) -> list[dict[str, Any]]:
    """Run the engine's recovery as the host's user; return what it found below the directories.

    It also puts right what engines that other tests killed have left elsewhere.
    """
    argv = [*host.python, "-c", _RECOVER, host.uri, host.runtime_dir / "fleetsave", *directories]
    found: list[dict[str, Any]] = json.loads(host.run(argv).stdout)
    return [one for one in found if any(Path(one["path"]).is_relative_to(path) for path in directories)]


@pytest.mark.parametrize("step", [Step.STAGING, "progress", Step.PREPARED])
def test_staging_of_a_living_guest_is_swept(
    steady_guest: Guest, folder: Path, start_engine: Callable[..., Any], step: str
) -> None:
    """Killed before the point of no return: the guest runs, so the image is not needed."""
    host = steady_guest.host
    engine = start_engine(
        host, op="save", domain=steady_guest.name, to=str(folder / "a.save"), hold_at=str(step)
    )
    engine.wait_for(str(step))
    assert recover(host, folder) == [], "an engine that lives is not disturbed"
    engine.kill()
    steady_guest.wait_state("running", timeout=10)

    found = recover(host, folder)

    assert [one["kind"] for one in found] == ["discarded"]
    assert not list(folder.iterdir())
    assert not list((host.runtime_dir / "fleetsave/jobs").iterdir())
    steady_guest.wait_counting()


@pytest.mark.parametrize("is_point", [False, True])
def test_only_copy_of_a_guest_is_published(
    running_guest: Guest,
    folder: Path,
    start_engine: Callable[..., Any],
    run_engine: Callable[..., Any],
    is_point: bool,
) -> None:
    """Killed after libvirt let the guest go: the image is whole in staging, and recovery makes it visible."""
    host = running_guest.host
    target = {"store": str(folder)} if is_point else {"to": str(folder / "b.save")}
    engine = start_engine(host, op="save", domain=running_guest.name, **target, hold_at=Step.COMMITTED.value)
    engine.wait_for(Step.COMMITTED.value)
    before = running_guest.counter()
    engine.kill()
    assert running_guest.state() == "shut off"
    assert not (folder / "b.save").exists()

    (found,) = recover(host, folder)

    assert found["kind"] == "published"
    run_engine(host, op="restore", path=found["path"]).result  # noqa: B018 - asserts that there is one
    running_guest.wait_counter_beyond(before)
    assert not list(folder.glob(".fleetsave-*"))
    assert not list(folder.glob(".staging/*"))
