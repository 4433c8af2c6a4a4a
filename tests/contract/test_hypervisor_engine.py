"""The whole engine does the same on libvirt and on a simulated host."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from engine.errors import (
    CancelledError,
    ChecksumError,
    DomainBusyError,
    EngineError,
    ReadOnlyError,
    TargetExistsError,
    WrongStateError,
)
from engine.hypervisor.port import Domain
from engine.steps import Step
from tests.contract.hypervisor_lab import Lab, assert_as_before, new_file, now

PAUSED, CRASH = 4, 1
#: Steps that come with the guest as it was before, whatever happens then.
BEFORE_COMMIT = ("staging", "call", "opened", "stream", "drained", "synced", "verified", "prepared")


def store_of(lab: Lab) -> Path:
    """Return the directory of restore points; made by the first save into it."""
    return lab.folder / "store"


def test_saved_guest_counts_on_after_a_restore(lab: Lab, guest: Domain) -> None:
    """Outcome and manifest say what it was done on."""
    image, before = new_file(lab), lab.counter(guest)

    saved = lab.bench.engine("save", guest.name, image)
    gone = now(lab, guest)
    restored = lab.bench.engine("restore", image)

    assert gone.state == "shut off"
    assert lab.wait_counting(guest) > before
    manifest = json.loads(Path(f"{image}.manifest.json").read_text())
    for what in (saved.simulated, restored.simulated, manifest["simulated"]):
        assert what is lab.is_simulated
    assert saved.checksum == restored.checksum
    assert saved.bytes == restored.bytes == Path(image).stat().st_size
    assert saved.was_running
    assert 0 < saved.guest_paused_seconds <= saved.duration_seconds
    assert (saved.state, restored.state) == ("saved", "running")
    assert saved.bypass_cache.direct
    assert saved.bypass_cache.resident_bytes == restored.bypass_cache.resident_bytes == 0


def test_compressed_restore_point(lab: Lab, guest: Domain) -> None:
    """Zstandard on the way through; the hypervisor gets the raw stream back."""
    before = lab.counter(guest)

    saved = lab.bench.engine("save", guest.name, zstd_level=1)
    point = Path(saved.path)
    lab.bench.engine("restore", str(point))

    assert point.parent == store_of(lab) / guest.uuid
    assert {path.name for path in point.iterdir()} == {"memory.save", "domain.xml", "manifest.json"}
    assert lab.wait_counting(guest) > before


def test_native_data_path(lab: Lab, guest: Domain) -> None:
    """The hypervisor writes and reads by itself."""
    image, before = new_file(lab), lab.counter(guest)

    saved = lab.bench.engine("save", guest.name, image, data_path="native")
    lab.bench.engine("restore", image, data_path="native")

    assert saved.data_path == "native"
    assert saved.simulated is lab.is_simulated
    assert lab.wait_counting(guest) > before


def test_flags_decide_after_the_restore(lab: Lab, guest: Domain) -> None:
    """PAUSED at the save stands in the header; the manifest says that the guest ran."""
    image = new_file(lab)

    lab.bench.engine("save", guest.name, image, None, PAUSED)
    restored = lab.bench.engine("restore", image)

    assert restored.state == "paused"
    lab.bench.hypervisor("resume", guest.uuid)


@pytest.mark.parametrize("step", BEFORE_COMMIT)
def test_cancelled_save_leaves_the_guest_as_it_was(lab: Lab, guest: Domain, step: str) -> None:
    """At each step before the point of no return; nothing is under the final name, nor in staging."""
    image = new_file(lab)

    with pytest.raises(CancelledError):
        lab.bench.engine("save", guest.name, image, None, PAUSED, cancel_at=step)

    assert_as_before(lab, guest)
    assert not list(Path(image).parent.iterdir())
    lab.wait_counting(guest)


def test_paused_guest_stays_so_after_a_cancelled_save(lab: Lab, guest: Domain) -> None:
    """Even where it was to run after the restore."""
    lab.suspend(guest)
    paused = now(lab, guest)

    with pytest.raises(CancelledError):
        lab.bench.engine("save", guest.name, new_file(lab), None, 2, cancel_at="prepared")

    assert_as_before(lab, paused)


def test_damaged_image_never_runs(lab: Lab, guest: Domain) -> None:
    """One changed byte in the memory, found before the last bytes are given away."""
    image = new_file(lab)
    lab.bench.engine("save", guest.name, image)
    size = Path(image).stat().st_size
    with Path(image).open("r+b") as file:
        file.seek(size // 2)
        byte = file.read(1)
        file.seek(size // 2)
        file.write(bytes([byte[0] ^ 1]))

    with pytest.raises(EngineError) as caught:
        lab.bench.engine("restore", image)

    # The simulated guest looks at its bytes itself, and may see it first.
    assert isinstance(caught.value, ChecksumError) or lab.is_simulated
    assert now(lab, guest).state == "shut off"


def test_checkpoint(lab: Lab, guest: Domain) -> None:
    """The guest goes on; the image is a copy of it that can be restored in its place."""
    image = new_file(lab)

    taken = lab.bench.engine("checkpoint", guest.name, image, max_pause_seconds=5.0)

    assert_as_before(lab, guest)
    assert (taken.op, taken.state, taken.simulated) == ("checkpoint", "running", lab.is_simulated)
    lab.wait_counting(guest)
    lab.bench.engine("save", guest.name, new_file(lab))
    lab.bench.engine("restore", image)
    lab.wait_counting(guest)


def test_cancelled_checkpoint(lab: Lab, guest: Domain) -> None:
    """The guest goes on, and there is no image."""
    image = new_file(lab)

    with pytest.raises(CancelledError):
        lab.bench.engine("checkpoint", guest.name, image, cancel_at="verified")

    assert_as_before(lab, guest)
    assert not Path(image).exists()


def test_core_dump(lab: Lab, guest: Domain) -> None:
    """With CRASH the guest is gone afterwards."""
    dumped = lab.bench.engine("core_dump", guest.name, new_file(lab))
    assert_as_before(lab, guest)
    crashed = lab.bench.engine("core_dump", guest.name, new_file(lab), 0, CRASH)

    assert dumped.simulated is crashed.simulated is lab.is_simulated
    assert dumped.bytes > 0
    assert now(lab, guest).state == "shut off"


def test_managed_save_and_start(lab: Lab, guest: Domain) -> None:
    """Past the page cache both ways; the guest counts on."""
    before = lab.counter(guest)

    saved = lab.bench.engine("managed_save", guest.name, managed=str(lab.managed))
    started = lab.bench.engine("start", guest.name, managed=str(lab.managed))

    assert (saved.state, started.state) == ("saved", "running")
    assert saved.simulated is started.simulated is lab.is_simulated
    assert saved.bypass_cache.resident_bytes == started.bypass_cache.resident_bytes == 0
    assert saved.bytes == started.bytes > 0
    assert lab.wait_counting(guest) > before


def test_damaged_managed_image_is_kept(lab: Lab, guest: Domain) -> None:
    """The hypervisor would throw it away and boot; the engine refuses, and boots only when told to."""
    lab.bench.engine("managed_save", guest.name, managed=str(lab.managed))
    lab.bench.damage(str(lab.managed / f"{guest.name}.save"), garbage=True)

    with pytest.raises(EngineError) as caught:
        lab.bench.engine("start", guest.name, managed=str(lab.managed))

    assert caught.value.exit_code == 10
    found = now(lab, guest)
    assert (found.state, found.has_managed_save) == ("shut off", True)
    lab.bench.engine("start", guest.name, 8, managed=str(lab.managed))
    assert not now(lab, guest).has_managed_save
    lab.wait_counting(guest)


def test_engine_refuses_before_the_guest_is_touched(lab: Lab, guest: Domain) -> None:
    """A taken name, a job of somebody else, a guest that runs already."""
    taken = new_file(lab)
    lab.bench.engine("checkpoint", guest.name, taken)
    since = lab.bench.now(guest.uuid)
    with pytest.raises(TargetExistsError):
        lab.bench.engine("save", guest.name, taken)
    with pytest.raises(WrongStateError):
        lab.bench.engine("restore", taken)
    with pytest.raises(WrongStateError):
        lab.bench.engine("start", guest.name)
    with pytest.raises(ReadOnlyError):
        lab.bench.engine("save", guest.name, new_file(lab), read_only=True)
    assert lab.bench.events(guest.uuid, [], since) == []

    lab.bench.begin_save(guest.uuid)
    with pytest.raises(DomainBusyError):
        lab.bench.engine("save", guest.name, new_file(lab))
    lab.bench.leave()
    assert_as_before(lab, guest)


def test_list_of_domains(lab: Lab, guest: Domain) -> None:
    """What workers report of a host."""
    found = {domain.uuid: domain for domain in lab.bench.list_domains()}

    assert found[guest.uuid].name == guest.name
    assert found[guest.uuid].state == "running"
    assert found[guest.uuid].memory_bytes == guest.memory_bytes


def hold_and_kill(lab: Lab, guest: Domain, image: str, step: str) -> None:
    """Kill an engine process at a step of its save."""
    process = lab.start_engine(op="save", domain=guest.name, to=image, hold_at=step)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        assert event["event"] != "error", event
        if event.get("step") == step:
            break
    process.kill()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.mark.parametrize("step", [Step.STREAM.value, Step.PREPARED.value])
def test_killed_engine_leaves_a_running_guest(lab: Lab, guest: Domain, step: str) -> None:
    """Whoever looks next finds it running; recovery sweeps what was written."""
    image = new_file(lab)
    hold_and_kill(lab, guest, image, step)

    assert lab.bench.wait_state(guest.uuid, "running") == "running"
    recovered = lab.bench.recover(str(Path(image).parent))

    assert [one.kind for one in recovered] == ["discarded"]
    assert_as_before(lab, guest)
    assert not list(Path(image).parent.iterdir())
    lab.wait_counting(guest)


def test_only_copy_is_published(lab: Lab, guest: Domain) -> None:
    """Killed once the guest was gone: its image appears by recovery, and restores."""
    image, before = new_file(lab), lab.counter(guest)
    hold_and_kill(lab, guest, image, Step.COMMITTED.value)
    assert now(lab, guest).state == "shut off"
    assert not Path(image).exists()

    recovered = lab.bench.recover(str(Path(image).parent))

    assert [one.kind for one in recovered] == ["published"]
    lab.bench.engine("restore", image)
    assert lab.wait_counting(guest) > before


def test_transient_guest_moves_through_an_image(lab: Lab, new_guest: Callable[..., Domain]) -> None:
    """Gone after the save, there again after the restore."""
    guest: Any = new_guest(transient=True)
    saved = lab.bench.engine("save", guest.uuid, job_id=uuid4().hex)

    assert guest.uuid not in {domain.uuid for domain in lab.bench.list_domains()}
    lab.bench.engine("restore", saved.path)

    assert not now(lab, guest).is_persistent
    lab.wait_counting(guest)
    assert not list((store_of(lab) / ".staging").iterdir())
