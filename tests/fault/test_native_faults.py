"""Let libvirt write the image by itself, and break that: nothing is lost either way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.errors import CancelledError, EngineError, HypervisorError, StorageError
from engine.flags import BypassPolicy
from engine.steps import Step
from tests.fault.save_faults import BROKEN, IMAGE
from tests.fault.world import IO_ERROR, World

#: In order, as such a save reaches them.
STEPS = (
    Step.PREFLIGHT, Step.STAGING, Step.CALL, Step.COMMIT, Step.COMMITTED, Step.VERIFIED, Step.PREPARED,
    Step.PUBLISHED, Step.DONE,
)  # fmt: skip


def save(world: World) -> None:
    """Save through libvirt's own I/O."""
    world.save(data_path="native", policy=BypassPolicy.OFF)


def test_native_save_is_published_whole(world: World) -> None:
    """The image that libvirt wrote appears under its final name, proven, and nothing else is left."""
    save(world)

    assert tuple(world.listener.steps) == STEPS
    world.assert_saved(world.final)
    world.assert_nothing_is_left()


@pytest.mark.parametrize(
    "moment", ["opening", "opened", "head", "midstream", "closed", "reopened", "committed"]
)
def test_failed_native_save_leaves_everything_as_it_was(world: World, moment: str) -> None:
    """Wherever libvirt fails, the guest runs on and no name is left."""
    world.hypervisor.faults[moment] = BROKEN

    with pytest.raises(HypervisorError, match="injected"):
        save(world)

    world.assert_nothing_happened()


@pytest.mark.parametrize("step", STEPS)
def test_cancel_of_a_native_save_tells_the_truth(world: World, step: Step) -> None:
    """Cancelled means that the guest runs, success that its image is published: late is too late."""
    world.listener.at[step] = lambda: world.cancel.cancel("by a test")

    if STEPS.index(step) < STEPS.index(Step.COMMIT):
        with pytest.raises(CancelledError):
            save(world)
        world.assert_nothing_happened()
    else:
        save(world)
        world.assert_saved(world.final)


@pytest.mark.parametrize("error", [EngineError("listener", "injected"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", STEPS)
def test_any_error_at_any_step_loses_no_guest(world: World, step: Step, error: BaseException) -> None:
    """Even an error that nobody foresaw leaves the guest, or its whole image."""

    def fail() -> None:
        raise error

    world.listener.at[step] = fail

    with pytest.raises(type(error)):
        save(world)

    if STEPS.index(step) < STEPS.index(Step.COMMITTED):
        world.assert_nothing_happened()
    else:
        (image,) = [*world.images.glob("new.save"), *world.images.glob(f".fleetsave-*/{IMAGE}")]
        world.assert_saved(image)


@pytest.mark.parametrize("call", ["fsync", "preadv"])
def test_image_that_cannot_be_proven_is_kept(world: World, call: str) -> None:
    """The guest is gone by then: a disk that fails under its only image does not make it disappear."""
    world.disk.plan(call, IO_ERROR, name=IMAGE)

    with pytest.raises(StorageError):
        save(world)

    (image,) = world.images.glob(f".fleetsave-*/{IMAGE}")
    world.assert_saved(image)


@pytest.mark.parametrize("moment", ["opened", "midstream", "committed"])
def test_guest_that_libvirt_left_paused_is_resumed(make_world: Callable[..., World], moment: str) -> None:
    """As with the stream, a guest that libvirt could not resume runs again."""
    world = make_world()
    world.hypervisor.leaves_paused = True
    world.hypervisor.faults[moment] = BROKEN

    with pytest.raises(HypervisorError):
        save(world)

    world.assert_nothing_happened()
