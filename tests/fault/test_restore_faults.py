"""Break a restore at every step: no half guest stays, the image stays, damaged memory never runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from engine.directio.reader import HOLD_BACK_SIZE
from engine.errors import (
    BypassError,
    CancelledError,
    ChecksumError,
    DomainBusyError,
    EngineError,
    HypervisorError,
    ImageFormatError,
    ImageIncompleteError,
    PathNotAllowedError,
    StorageError,
    WrongStateError,
)
from engine.flags import SaveFlags
from engine.restore import restore
from engine.steps import RESTORE_STEPS, Step
from engine.store.workspace import lock_domain
from tests.data.libvirt_peer import make_image
from tests.fault.restore_faults import RESTORE_FAULTS
from tests.fault.save_faults import Fault
from tests.fault.world import RESTORED_SIZE, UUID, XML, World

#: From here on the guest is there.
THERE: Final = frozenset({Step.COMMITTED, Step.DONE})
HEAD_SIZE: Final = len(make_image(XML, b""))
XML_END: Final = 92 + len(XML)
IMAGE_SIZE: Final = HEAD_SIZE + RESTORED_SIZE

CASES: Final = [
    pytest.param(step, fault, id=f"{step.value}-{fault.name}")
    for step, faults in RESTORE_FAULTS.items()
    for fault in faults
]


@pytest.fixture
def saved(make_world: Callable[..., World]) -> World:
    """Give a guest that is shut off and whose image lies there."""
    world = make_world(size=RESTORED_SIZE)
    world.save()
    world.begin_anew()
    return world


@pytest.fixture
def saved_small(world: World) -> World:
    """Give the same with an image so small that all of it is held back."""
    world.hypervisor.memory = world.hypervisor.memory[:100_000]
    world.save()
    world.begin_anew()
    return world


def test_every_step_of_a_restore_has_its_faults() -> None:
    """A step that is added without a line in the table of faults fails here."""
    assert set(RESTORE_FAULTS) == set(RESTORE_STEPS)
    assert {step for step in RESTORE_STEPS if not RESTORE_FAULTS[step]} == {Step.COMMIT, Step.DONE}


def test_steps_of_a_restore_come_in_their_order(saved: World) -> None:
    """An undisturbed restore reaches every step once, and QEMU gets the image byte for byte."""
    outcome = saved.restore()

    assert tuple(saved.listener.steps) == RESTORE_STEPS
    assert bytes(saved.hypervisor.received) == saved.final.read_bytes()
    assert saved.hypervisor.domain.is_running
    assert outcome.bypass_cache.resident_bytes == 0
    saved.assert_nothing_is_left()


def test_small_image_is_restored_whole(saved_small: World) -> None:
    """An image smaller than what is held back arrives byte for byte, too."""
    saved_small.restore()

    assert bytes(saved_small.hypervisor.received) == saved_small.final.read_bytes()


@pytest.mark.parametrize(("step", "fault"), CASES)
def test_failed_restore_leaves_everything_as_it_was(
    saved: World, monkeypatch: pytest.MonkeyPatch, step: Step, fault: Fault
) -> None:
    """No guest was started, the image is untouched, nothing of the job is left."""
    fault.arrange(saved, monkeypatch)

    with pytest.raises(fault.error) as caught:
        saved.restore()

    assert step not in saved.listener.steps
    if issubclass(fault.error, EngineError):
        assert isinstance(caught.value, EngineError)
        assert caught.value.exit_code == fault.error.exit_code
    saved.assert_nothing_happened()


@pytest.mark.parametrize("step", RESTORE_STEPS)
def test_cancel_at_any_step(saved: World, step: Step) -> None:
    """Before the last bytes go a cancel leaves no guest; from there on it is too late."""
    saved.listener.at[step] = lambda: saved.cancel.cancel("by a test")

    if RESTORE_STEPS.index(step) < RESTORE_STEPS.index(Step.COMMIT):
        with pytest.raises(CancelledError, match="by a test"):
            saved.restore()
        saved.assert_nothing_happened()
        assert len(saved.hypervisor.received) <= IMAGE_SIZE - HOLD_BACK_SIZE
    else:
        saved.restore()
        assert saved.hypervisor.domain.is_running


@pytest.mark.parametrize("step", RESTORE_STEPS)
def test_cancel_of_a_small_restore_tells_the_truth(saved_small: World, step: Step) -> None:
    """Cancelled means that no guest runs, success that one does, however small the image."""
    saved_small.listener.at[step] = lambda: saved_small.cancel.cancel("by a test")

    try:
        saved_small.restore()
    except CancelledError:
        saved_small.assert_nothing_happened()
    else:
        assert saved_small.hypervisor.domain.is_running


@pytest.mark.parametrize(
    "error", [EngineError("listener", "injected"), RuntimeError("injected"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", RESTORE_STEPS)
def test_any_error_at_any_step_leaves_no_half_guest(saved: World, step: Step, error: BaseException) -> None:
    """Even an error that nobody foresaw leaves no guest, or a whole one; and always the image."""

    def fail() -> None:
        raise error

    saved.listener.at[step] = fail

    with pytest.raises(type(error), match="injected" if str(error) else None):
        saved.restore()

    if step in THERE:
        assert bytes(saved.hypervisor.received) == saved.final.read_bytes()
        assert saved.files() == saved.files_before
    else:
        saved.assert_nothing_happened()


@pytest.mark.parametrize(
    ("offset", "error"),
    [
        pytest.param(3, ImageFormatError, id="magic"),
        pytest.param(16, ImageFormatError, id="version"),
        pytest.param(23, ImageFormatError, id="data_len"),
        pytest.param(24, ChecksumError, id="was_running"),
        pytest.param(31, ImageFormatError, id="format"),
        pytest.param(35, ImageFormatError, id="cookieOffset"),
        pytest.param(60, ChecksumError, id="unused"),
        pytest.param(XML_END - 30, ChecksumError, id="description"),
        pytest.param(XML_END + 3, ChecksumError, id="cookie"),
        pytest.param(HEAD_SIZE - 1, ChecksumError, id="padding"),
        pytest.param(HEAD_SIZE, ChecksumError, id="first-byte-of-memory"),
        pytest.param(HEAD_SIZE + RESTORED_SIZE // 2, ChecksumError, id="middle"),
        pytest.param(IMAGE_SIZE - HOLD_BACK_SIZE, ChecksumError, id="first-byte-held-back"),
        pytest.param(IMAGE_SIZE - 1, ChecksumError, id="last-byte"),
    ],
)
def test_damaged_byte_never_runs(saved: World, offset: int, error: type[EngineError]) -> None:
    """One flipped bit anywhere is noticed before QEMU has the last bytes; the image stays as it is."""
    image = bytearray(saved.final.read_bytes())
    image[offset] ^= 0x40
    saved.final.write_bytes(image)
    saved.files_before = saved.files()

    with pytest.raises(error) as caught:
        saved.restore()

    assert caught.value.exit_code == error.exit_code
    assert str(saved.final) in str(caught.value)
    assert len(saved.hypervisor.received) <= IMAGE_SIZE - HOLD_BACK_SIZE
    saved.assert_nothing_happened()


def test_last_bytes_are_held_back_until_all_is_proven(saved: World) -> None:
    """When the checksums have matched QEMU still lacks more than it needs to start."""
    received: list[int] = []
    saved.listener.at[Step.VERIFIED] = lambda: received.append(len(saved.hypervisor.received))

    saved.restore()

    assert received[0] <= IMAGE_SIZE - HOLD_BACK_SIZE


@pytest.mark.parametrize(
    "length", [0, 1, 91, 92, 93, HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 1, IMAGE_SIZE - 1]
)
@pytest.mark.parametrize("has_manifest", [True, False])
def test_cut_image_is_refused(saved: World, length: int, *, has_manifest: bool) -> None:
    """An image that lost its end is refused beforehand; without a manifest at the latest by QEMU."""
    os.truncate(saved.final, length)
    if not has_manifest:
        (saved.images / "new.save.manifest.json").unlink()
    saved.files_before = saved.files()
    saved.hypervisor.needs_every_byte = True

    with pytest.raises((ImageIncompleteError, ImageFormatError, HypervisorError)) as caught:
        saved.restore()

    if has_manifest:
        assert not isinstance(caught.value, HypervisorError)
        assert saved.hypervisor.moments == []
    saved.assert_nothing_happened()


def test_image_that_grew_is_refused(saved: World) -> None:
    """More bytes than the manifest says are as wrong as fewer."""
    with saved.final.open("ab") as file:
        file.write(b"x")
    saved.files_before = saved.files()

    with pytest.raises(ImageIncompleteError, match="as its manifest says"):
        saved.restore()

    saved.assert_nothing_happened()


def test_image_cut_after_it_was_opened_is_refused(saved: World) -> None:
    """A file that ends early after all was well at first is noticed before the last bytes."""
    saved.listener.at[Step.OPENED] = lambda: os.truncate(saved.final, IMAGE_SIZE - 100_000)

    with pytest.raises(ImageIncompleteError, match="ends early"):
        saved.restore()

    assert not saved.hypervisor.domain.is_active
    assert len(saved.hypervisor.received) <= IMAGE_SIZE - HOLD_BACK_SIZE


def test_image_without_manifest_is_restored(saved: World) -> None:
    """What virsh saved has no manifest; it runs all the same."""
    (saved.images / "new.save.manifest.json").unlink()

    saved.restore()

    assert saved.hypervisor.domain.is_running


def test_manifest_that_is_none_refuses_the_image(saved: World) -> None:
    """A damaged manifest is not taken for a missing one."""
    (saved.images / "new.save.manifest.json").write_text("{}")
    saved.files_before = saved.files()

    with pytest.raises(ImageFormatError, match="manifest"):
        saved.restore()

    saved.assert_nothing_happened()


def test_incomplete_image_is_refused(saved: World) -> None:
    """The mark of a save that never finished is believed, manifest or not."""
    image = bytearray(saved.final.read_bytes())
    image[:16] = b"LibvirtQemudPart"
    saved.final.write_bytes(image)
    saved.files_before = saved.files()

    with pytest.raises(ImageIncompleteError, match="incomplete"):
        saved.restore()

    saved.assert_nothing_happened()


@pytest.mark.parametrize("state", ["running", "paused"])
def test_active_domain_is_not_restored_over(saved: World, state: str) -> None:
    """The guest that is there goes on, whatever image is restored."""
    saved.hypervisor.domain = saved.before = replace(saved.before, state=state, run_id=9)

    with pytest.raises(WrongStateError, match="already active"):
        saved.restore()

    saved.assert_nothing_happened()
    assert saved.hypervisor.moments == []


def test_two_restores_of_one_domain_exclude_each_other(saved: World) -> None:
    """While another operation holds the domain a restore is refused, and may be tried again."""
    with (
        lock_domain(saved.folder / "run", UUID, "web-1"),
        pytest.raises(DomainBusyError, match="another fleetsave operation") as caught,
    ):
        saved.restore()

    assert caught.value.is_transient
    saved.assert_nothing_happened()


def test_image_outside_the_allowed_directories_is_not_even_opened(saved: World, tmp_path: Path) -> None:
    """A path that leads out of the roots through a link is refused."""
    link = saved.store / "link"
    link.symlink_to(saved.images)
    operation: Any = replace(saved.operation(), allowed_roots=(str(saved.store),))

    with pytest.raises(PathNotAllowedError):
        restore(operation, link / "new.save")

    assert tmp_path in saved.final.parents
    assert not saved.hypervisor.domain.is_active


@pytest.mark.parametrize(
    ("flags", "state"),
    [(SaveFlags.NONE, "running"), (SaveFlags.PAUSED, "paused"), (SaveFlags.RUNNING, "running")],
)
def test_flags_decide_what_the_guest_is_after(saved: World, flags: SaveFlags, state: str) -> None:
    """RUNNING and PAUSED reach libvirt."""
    outcome = saved.restore(flags=flags)

    assert outcome.state == saved.hypervisor.domain.state == state


def test_bypass_that_fails_is_found_before_the_guest_runs(saved: World) -> None:
    """With `require`, pages that appear in the cache during the restore stop it."""
    saved.listener.at[Step.STREAM] = saved.read_image

    with pytest.raises(BypassError, match="page cache"):
        saved.restore()

    assert not saved.hypervisor.domain.is_active


def test_missing_image_is_named(saved: World) -> None:
    """A path with nothing there is a storage error that names it."""
    with pytest.raises(StorageError, match=r"nothing\.save"):
        saved.restore(saved.images / "nothing.save")

    saved.assert_nothing_happened()
