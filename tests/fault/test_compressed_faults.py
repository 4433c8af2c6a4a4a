"""Save compressed, restore, and damage what lies between: the same promises hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.errors import ChecksumError, EngineError, ImageFormatError, ImageIncompleteError, NoSpaceError
from engine.flags import BypassPolicy
from engine.image.header import ImageFormat, parse_header
from engine.steps import SAVE_STEPS, Step
from engine.units import KiB
from tests.data.libvirt_peer import make_image
from tests.fault.save_faults import IMAGE
from tests.fault.world import NO_SPACE, RESTORED_SIZE, XML, World

HEAD_SIZE = len(make_image(XML, b""))


@pytest.fixture
def saved(make_world: Callable[..., World]) -> World:
    """Give a guest that is shut off and whose compressed image lies there."""
    world = make_world(size=RESTORED_SIZE)
    # Half of it compresses well.
    world.hypervisor.memory = bytes(RESTORED_SIZE // 2) + world.hypervisor.memory[: RESTORED_SIZE // 2]
    world.save(zstd_level=1)
    world.begin_anew()
    return world


def test_compressed_image_is_smaller_and_the_same(saved: World) -> None:
    """Its header says zstd, no page of it was cached, and the guest gets the raw image back."""
    image = saved.final.read_bytes()
    assert parse_header(image, path="new").format is ImageFormat.ZSTD
    assert len(image) < RESTORED_SIZE * 3 // 4

    restored = saved.restore()

    assert bytes(saved.hypervisor.received) == make_image(XML, saved.hypervisor.memory)
    assert saved.hypervisor.domain.is_running
    assert restored.bytes == len(image)
    assert restored.bypass_cache.resident_bytes is not None


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_damaged_compressed_byte_never_runs(saved: World, share: float) -> None:
    """One bit anywhere in the compressed stream: refused by checksum or decompressor, no guest."""
    image = bytearray(saved.final.read_bytes())
    image[min(len(image) - 1, HEAD_SIZE + int(share * (len(image) - HEAD_SIZE)))] ^= 0x10
    saved.final.write_bytes(image)
    saved.files_before = saved.files()

    with pytest.raises((ChecksumError, ImageFormatError)):
        saved.restore()

    saved.assert_nothing_happened()


@pytest.mark.parametrize("has_manifest", [True, False])
def test_cut_compressed_image_never_runs(saved: World, *, has_manifest: bool) -> None:
    """A stream without its end is refused, manifest or not."""
    image = saved.final.read_bytes()
    saved.final.write_bytes(image[: -64 * KiB])
    if not has_manifest:
        (saved.images / "new.save.manifest.json").unlink()
    saved.files_before = saved.files()

    with pytest.raises((ImageIncompleteError, ImageFormatError, EngineError)):
        saved.restore()

    saved.assert_nothing_happened()


@pytest.mark.parametrize("step", SAVE_STEPS)
def test_cancel_of_a_compressed_save_tells_the_truth(world: World, step: Step) -> None:
    """As without compression: undone before the point of no return, done after it."""
    world.listener.at[step] = lambda: world.cancel.cancel("by a test")

    if SAVE_STEPS.index(step) < SAVE_STEPS.index(Step.COMMIT):
        with pytest.raises(EngineError, match="by a test"):
            world.save(zstd_level=1)
        world.assert_nothing_happened()
    else:
        world.save(zstd_level=1)
        assert not world.hypervisor.domain.is_active
        assert world.final.exists()


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_full_disk_under_a_compressed_save(world: World, nth: int) -> None:
    """The guest runs on and nothing is left."""
    world.disk.plan("pwrite", NO_SPACE, name=IMAGE, nth=nth)

    with pytest.raises(NoSpaceError):
        world.save(zstd_level=1)

    world.assert_nothing_happened()


def test_limited_save_keeps_its_rate_and_can_be_cancelled(world: World) -> None:
    """A bandwidth holds the transfer back, and a cancel does not wait for it."""
    world.listener.at[Step.STREAM] = lambda: world.cancel.cancel("by a test")

    with pytest.raises(EngineError, match="by a test"):
        world.save(bandwidth=1, policy=BypassPolicy.OFF)

    world.assert_nothing_happened()
