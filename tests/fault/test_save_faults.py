"""Break a save at every step: whatever fails, no guest, no image and no name is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from engine.errors import (
    CancelledError,
    EngineError,
    HypervisorError,
    ImageFormatError,
    StorageError,
    TargetExistsError,
    UndecidedError,
)
from engine.flags import SaveFlags
from engine.image.header import parse_header
from engine.image.manifest import parse_manifest
from engine.steps import SAVE_STEPS, Step
from tests.fault.save_faults import BROKEN, FAULTS, IMAGE, Fault
from tests.fault.world import IO_ERROR, NO_SPACE, UUID, FaultyOs, World

#: From here on the guest is gone, and its image must stay.
GONE: Final = frozenset({Step.COMMITTED, Step.PUBLISHED, Step.DONE})


CASES: Final = [
    pytest.param(step, fault, id=f"{step.value}-{fault.name}")
    for step, faults in FAULTS.items()
    for fault in faults
]


def test_every_step_of_a_save_has_its_faults() -> None:
    """A step that is added without a line in the table of faults fails here."""
    assert set(FAULTS) == set(SAVE_STEPS)
    nothing_to_fail = {step for step in SAVE_STEPS if not FAULTS[step]}
    assert nothing_to_fail == {Step.STREAM, Step.COMMIT, Step.PUBLISHED, Step.DONE}


def test_steps_of_a_save_come_in_their_order(world: World) -> None:
    """An undisturbed save reaches every step once, as listed, and leaves the image and nothing else."""
    outcome = world.save()

    assert tuple(world.listener.steps) == SAVE_STEPS
    world.assert_saved(world.final)
    world.assert_nothing_is_left()
    assert outcome.bypass_cache.resident_bytes == 0


@pytest.mark.parametrize("kind", ["file", "point", "checkpoint"])
@pytest.mark.parametrize(("step", "fault"), CASES)
def test_failed_save_leaves_everything_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch, step: Step, fault: Fault, kind: str
) -> None:
    """The guest runs on in the same run, old images are untouched, no name and no staging is left."""
    fault.arrange(world, monkeypatch)

    with pytest.raises(fault.error) as caught:
        world.save(kind=kind)

    assert step not in world.listener.steps
    if fault.error is not EngineError and isinstance(caught.value, EngineError):
        assert caught.value.exit_code == fault.error.exit_code  # type: ignore[attr-defined]
    world.assert_nothing_happened()


@pytest.mark.parametrize("state", ["running", "paused"])
@pytest.mark.parametrize("step", SAVE_STEPS)
def test_cancel_at_any_step(make_world: Callable[..., World], step: Step, state: str) -> None:
    """Before the point of no return a cancel undoes everything; from there on it is too late, and said so."""
    world = make_world(state=state)
    world.listener.at[step] = lambda: world.cancel.cancel("by a test")

    if SAVE_STEPS.index(step) < SAVE_STEPS.index(Step.COMMIT):
        with pytest.raises(CancelledError, match="by a test"):
            world.save()
        world.assert_nothing_happened()
        assert world.listener.steps[-1] is step
    else:
        world.save()
        world.assert_saved(world.final)
        world.assert_nothing_is_left()


@pytest.mark.parametrize(
    "error", [EngineError("listener", "injected"), RuntimeError("injected"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", SAVE_STEPS)
def test_any_error_at_any_step_loses_no_guest(world: World, step: Step, error: BaseException) -> None:
    """Even an error that nobody foresaw leaves the guest, or its whole image."""

    def fail() -> None:
        raise error

    world.listener.at[step] = fail

    with pytest.raises(type(error), match="injected" if str(error) else None):
        world.save()

    if step in GONE:
        (image,) = [*world.images.glob("new.save"), *world.images.glob(f".fleetsave-*/{IMAGE}")]
        world.assert_saved(image)
    else:
        world.assert_nothing_happened()


@pytest.mark.parametrize("kind", ["file", "point"])
@pytest.mark.parametrize("call", ["link", "sync-manifest", "sync-image"])
def test_image_that_cannot_be_published_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str, kind: str
) -> None:
    """The guest is gone by then: its only image stays in staging, whole, and the error says where."""

    def full(*_paths: object) -> None:
        raise NO_SPACE

    if call == "link":
        monkeypatch.setattr("engine.store.staging.rename_exclusively", full)
    elif kind == "point":
        # The domain's directory, synced in the store and for its new name.
        world.disk.plan("fsync", IO_ERROR, name=UUID)
    else:
        # The staging directory's name was the first to be synced there.
        world.disk.plan("fsync", IO_ERROR, name=world.images.name, nth=1 if call == "sync-manifest" else 2)

    with pytest.raises(StorageError, match="the image is whole") as caught:
        world.save(kind=kind)

    kept = [path for path in world.folder.rglob("*.save") if path.stat().st_size > 1000]
    assert len(kept) == 1
    world.assert_saved(kept[0])
    assert str(kept[0]) in str(caught.value)


def test_full_disk_after_the_commit_keeps_the_first_manifest(world: World) -> None:
    """The manifest written before the commit is published when the last one finds no room."""
    world.disk.plan("fsync", NO_SPACE, name="manifest.json.new", nth=1)

    world.save()

    world.assert_saved(world.final)
    manifest = world.images / "new.save.manifest.json"
    assert parse_manifest(manifest.read_text(), path="m").image_bytes == world.final.stat().st_size
    world.assert_nothing_is_left()


def _lay(file: Path) -> None:
    file.write_bytes(b"foreign")


@pytest.mark.parametrize("taken", ["new.save", "new.save.manifest.json"])
def test_name_taken_meanwhile_is_left_alone(world: World, taken: str) -> None:
    """A file that appears under the final name meanwhile is not touched; the image goes beside it."""
    foreign = world.images / taken
    world.listener.at[Step.COMMIT] = lambda: _lay(foreign)

    outcome = world.save()

    spare = world.images / "new.save.job-1"
    assert outcome.path == str(spare)
    world.assert_saved(spare)
    assert sorted(path.name for path in world.images.iterdir()) == sorted(
        ["old.save", taken, "new.save.job-1", "new.save.job-1.manifest.json"]
    )
    assert foreign.read_bytes() == b"foreign"


@pytest.mark.parametrize("taken", ["new.save", "new.save.manifest.json"])
def test_name_taken_before_refuses_the_save(world: World, taken: str) -> None:
    """An image of the same name is not overwritten, and the guest not even paused."""
    (world.images / taken).write_bytes(b"foreign")
    world.files_before = world.files()

    with pytest.raises(TargetExistsError):
        world.save()

    world.assert_nothing_happened()
    assert world.hypervisor.moments == []


def test_staging_of_another_attempt_is_not_thrown_away(world: World) -> None:
    """A directory that this job did not make may hold the only copy of a guest: it stays."""
    other = world.images / ".fleetsave-job-1"
    other.mkdir()
    (other / IMAGE).write_bytes(b"the only copy")

    with pytest.raises(StorageError, match="exists"):
        world.save()

    assert (other / IMAGE).read_bytes() == b"the only copy"
    assert world.hypervisor.moments == []


@pytest.mark.parametrize("moment", ["opened", "midstream", "closed", "reopened", "committed"])
def test_guest_that_libvirt_left_paused_is_resumed(world: World, moment: str) -> None:
    """A failed save whose guest libvirt could not resume ends with the guest running all the same."""
    world.hypervisor.leaves_paused = True
    world.hypervisor.faults[moment] = BROKEN

    with pytest.raises(HypervisorError):
        world.save()

    world.assert_nothing_happened()


def test_error_of_libvirt_with_the_guest_gone_is_no_failure(world: World) -> None:
    """An error of libvirt's clean-up after the guest had ended: the image counts."""
    world.hypervisor.late_error = BROKEN

    world.save()

    world.assert_saved(world.final)


def test_libvirt_that_goes_away_in_the_commit_leaves_the_image_in_staging(world: World) -> None:
    """Nobody can tell whether the guest went: the whole image is kept, and the guest looked at later."""
    world.hypervisor.goes_away_at = "committed"
    world.hypervisor.faults["committed"] = HypervisorError("web-1", "connection reset by peer")

    with pytest.raises(UndecidedError) as caught:
        world.save()

    assert caught.value.exit_code == 75
    assert not world.final.exists()
    (kept,) = world.images.glob(f".fleetsave-*/{IMAGE}")
    assert str(kept.parent) in str(caught.value)
    assert parse_header(kept.read_bytes(), path="kept").is_complete


def test_stream_that_is_no_image_is_refused(world: World) -> None:
    """What does not begin like a save image is never committed."""
    world.hypervisor.garbage = b"TestGuestMagic\0\0" + bytes(100_000)

    with pytest.raises(ImageFormatError):
        world.save()

    world.assert_nothing_happened()


@pytest.mark.parametrize(
    ("state", "flags", "was_running"),
    [
        ("running", SaveFlags.NONE, True),
        ("paused", SaveFlags.NONE, False),
        ("running", SaveFlags.PAUSED, False),
        ("paused", SaveFlags.RUNNING, True),
    ],
)
def test_flags_change_the_image_and_not_the_guest(
    make_world: Callable[..., World], state: str, flags: SaveFlags, *, was_running: bool
) -> None:
    """The wanted state stands in the image; a save that fails leaves the guest as it was, flag or not."""
    world = make_world(state=state)
    world.disk.plan("fsync", IO_ERROR, name=IMAGE)
    with pytest.raises(StorageError):
        world.save(flags=flags)
    world.assert_nothing_happened()

    world.save(flags=flags)

    assert parse_header(world.final.read_bytes(), path="new").was_running is was_running


def test_faulty_disk_fails_only_where_it_was_told(tmp_path: Path) -> None:
    """The double itself: the nth call on the named file, and no other, has the planned effect."""
    disk = FaultyOs()
    disk.plan("fsync", IO_ERROR, name="a", nth=1)
    with (tmp_path / "a").open("wb") as a, (tmp_path / "b").open("wb") as b:
        for _ in range(3):
            disk.fsync(b.fileno())
        disk.fsync(a.fileno())
        with pytest.raises(OSError, match=r"\[Errno 5\]"):
            disk.fsync(a.fileno())
        disk.fsync(a.fileno())
