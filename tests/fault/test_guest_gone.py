"""The guest ends by itself while it is saved: an image that was whole by then is all there is of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import GuestGoneError, StorageError
from engine.steps import SAVE_STEPS, Step
from tests.fault.world import NO_SPACE, World

_STEPS = SAVE_STEPS[SAVE_STEPS.index(Step.OPENED) : SAVE_STEPS.index(Step.COMMIT)]


def _end_guest_and_cancel(world: World) -> None:
    world.hypervisor.leaves_paused = True
    world.hypervisor.domain = replace(world.hypervisor.domain, run_id=-1, state="shut off")
    world.cancel.cancel("by a test")


@pytest.mark.parametrize("kind", ["file", "point", "checkpoint"])
@pytest.mark.parametrize("step", _STEPS)
def test_whole_image_is_published_though_the_operation_failed(world: World, step: Step, kind: str) -> None:
    """Before the image is whole nothing is left of it; from then on it is visible, and the error names it."""
    world.listener.at[step] = lambda: _end_guest_and_cancel(world)

    with pytest.raises(GuestGoneError, match="ended by itself") as caught:
        world.save(kind=kind)

    world.assert_nothing_is_left()
    made = set(world.files()) - set(world.files_before)
    if step is Step.PREPARED:
        image = world.folder / next(name for name in made if name.endswith(".save"))
        assert str(image if kind == "file" else image.parent) in str(caught.value)
        world.assert_saved(image)
    else:
        assert made == set()


def test_whole_image_that_cannot_be_published_stays_in_staging(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk on top of it: recovery finds the image."""

    def full(*_paths: object) -> None:
        raise NO_SPACE

    world.listener.at[Step.PREPARED] = lambda: _end_guest_and_cancel(world)
    monkeypatch.setattr("engine.store.staging.rename_exclusively", full)

    with pytest.raises(StorageError, match="the image is whole"):
        world.save()

    (kept,) = world.images.glob(".fleetsave-*/memory.save")
    world.assert_saved(kept)
