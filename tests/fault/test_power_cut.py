"""The power fails at every instant: a reader finds the old state or the whole new image, nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from engine.checksum import Checksum
from engine.define import DEFINE_STEPS, image_define
from engine.directio import target
from engine.flags import BypassPolicy, SaveFlags
from engine.image.manifest import parse_manifest
from engine.observer import SilentObserver
from engine.steps import SAVE_STEPS, Step
from engine.store import staging
from engine.store.images import open_image
from engine.store.places import IMAGE_NAME, MANIFEST_NAME, STAGING_NAME, XML_NAME, manifest_of
from engine.store.record import PREPARED, RECORD_NAME, parse_record
from engine.verify import image_verify
from tests.data.image_files import LARGE_XML, OTHER_XML, UUID, memory_stream, write_image, write_point
from tests.fault.power import Effect, Mark, Recorder, Tree, Write, crash_states, lay_out
from tests.fault.world import World

#: Of the guest's memory: two writes, the last one not whole blocks.
MEMORY_SIZE: Final = 3 * 2**20 + 123


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Recorder]]:
    """Give a function that begins to record what is done to a directory."""
    with monkeypatch.context() as patch:

        def begin(root: Path) -> Recorder:
            recorder = Recorder(root)
            recorder.install(patch)
            patch.setattr(staging, "rename_exclusively", recorder.wrap_rename(staging.rename_exclusively))
            patch.setattr(target, "reserve_space", recorder.wrap_reserve(target.reserve_space))
            return recorder

        yield begin


class Marking(SilentObserver):
    """Notes the steps between the effects."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def step(self, step: Step) -> None:
        """Note the step."""
        self._recorder.mark(step)


def has_come_to(step: str, done: list[Effect]) -> bool:
    """Tell whether a step is among what was done."""
    return any(isinstance(effect, Mark) and effect.name == step for effect in done)


def find(tree: Tree, path: Path) -> Any:
    """Return what is at a path in a tree, None where there is nothing."""
    found: Any = tree
    for name in path.parts:
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def checksum_of(manifest: bytes) -> Checksum:
    """Return the checksums of a manifest, which has to be one."""
    return parse_manifest(manifest.decode(), path="manifest").checksum


def is_prepared(stage: Any, image: bytes) -> bool:
    """Tell whether recovery would publish what is in a staging directory, and whether that is whole."""
    if not isinstance(stage, dict) or RECORD_NAME not in stage:
        return False
    record = parse_record(stage[RECORD_NAME].decode(), path="record")
    return record.state == PREPARED and stage.get(IMAGE_NAME) == image


def watch(world: World, recorder: Recorder) -> None:
    """Let the steps of the job be noted between the effects."""
    for step in SAVE_STEPS:
        world.listener.at[step] = lambda step=step: recorder.mark(step)  # type: ignore[misc]


def test_save_to_a_file(make_world: Callable[..., World], record: Callable[[Path], Recorder]) -> None:
    """Under the final name is nothing, or the whole image with its manifest.

    From the commit on, when the guest may be gone, the image is found: under its name, or in
    staging as recovery wants it.
    """
    world = make_world(size=MEMORY_SIZE)
    recorder = record(world.images)
    watch(world, recorder)
    world.save()
    recorder.mark("returned")
    recorder.check()
    image, manifest = world.final.read_bytes(), manifest_of(world.final).read_bytes()
    assert has_come_to(Step.COMMIT, recorder.effects)

    count = 0
    for done, tree in crash_states(recorder):
        count += 1
        assert tree["old.save"] == b"an older image"
        found = tree.get(world.final.name)
        if found is not None:
            assert found == image
            assert checksum_of(tree[manifest_of(world.final).name]) == checksum_of(manifest)
        if has_come_to(Step.COMMIT, done):
            staged = tree.get(f".fleetsave-{world.job_id}")
            assert found is not None or is_prepared(staged, image), done[-3:]
        if has_come_to("returned", done):
            assert found is not None
            assert tree[manifest_of(world.final).name] == manifest
    assert count > 50


@pytest.mark.parametrize("kind", ["point", "checkpoint"])
def test_save_into_the_store(
    make_world: Callable[..., World], record: Callable[[Path], Recorder], kind: str
) -> None:
    """A restore point is there with all its files, or not at all; the store may have been empty."""
    world = make_world(size=MEMORY_SIZE)
    # A store without the domain's directory: that has to become durable, too.
    old = world.store / UUID
    old.rename(world.store / "00000000-0000-0000-0000-000000000000")
    recorder = record(world.store)
    watch(world, recorder)
    point = Path(world.save(kind=kind).path).relative_to(world.store)
    recorder.mark("returned")
    recorder.check()
    files = {
        name: (world.store / point / name).read_bytes() for name in (IMAGE_NAME, XML_NAME, MANIFEST_NAME)
    }

    for done, tree in crash_states(recorder):
        found = find(tree, point)
        if found is not None:
            assert found[IMAGE_NAME] == files[IMAGE_NAME]
            assert found[XML_NAME] == files[XML_NAME]
            assert checksum_of(found[MANIFEST_NAME]) == checksum_of(files[MANIFEST_NAME])
        if has_come_to(Step.COMMIT, done) and kind == "point":
            staged = find(tree, Path(STAGING_NAME) / world.job_id)
            assert found is not None or is_prepared(staged, files[IMAGE_NAME]), done[-3:]
        if has_come_to("returned", done):
            assert found is not None
            assert found[MANIFEST_NAME] == files[MANIFEST_NAME]


@pytest.mark.parametrize("xml", [OTHER_XML, LARGE_XML], ids=["in place", "moved"])
@pytest.mark.parametrize("has_manifest", [True, False], ids=["manifest", "bare"])
def test_define_of_a_file(
    tmp_path: Path, record: Callable[[Path], Recorder], xml: str, has_manifest: bool
) -> None:
    """The name means the old image or the new one, never anything else, and readers get what fits it."""
    path = tmp_path / "images" / "a.save"
    path.parent.mkdir()
    old = write_image(path, stream=memory_stream(MEMORY_SIZE), has_manifest=has_manifest)
    recorder = record(path.parent)
    image_define(path, xml, SaveFlags.PAUSED, observer=Marking(recorder))
    recorder.mark("returned")
    recorder.check()
    new = path.read_bytes()
    assert has_come_to(DEFINE_STEPS[-1], recorder.effects)

    check_definition(recorder, Path("a.save"), (old, new), tmp_path / "after", has_manifest=has_manifest)


def test_define_of_a_restore_point(tmp_path: Path, record: Callable[[Path], Recorder]) -> None:
    """A definition that was interrupted is finished by the next one, the XML beside the image included."""
    store = tmp_path / "store"
    point = Path(UUID) / "20260101T000000Z-job-1"
    (store / STAGING_NAME).mkdir(parents=True)
    old = write_point(store / point, stream=memory_stream(MEMORY_SIZE))
    recorder = record(store)
    image_define(store / point, OTHER_XML, observer=Marking(recorder))
    recorder.mark("returned")
    recorder.check()
    new = (store / point / IMAGE_NAME).read_bytes()

    check_definition(recorder, point / IMAGE_NAME, (old, new), tmp_path / "after", has_manifest=True)


def check_definition(
    recorder: Recorder, image: Path, images: tuple[bytes, bytes], folder: Path, *, has_manifest: bool
) -> None:
    """See that in every state a reader finds one of two images whole, and that the next definition works."""
    _, new = images
    met: set[bytes] = set()
    laid_out: list[Tree] = []
    for done, tree in crash_states(recorder):
        found = find(tree, image)
        assert found in images
        met.add(found)
        if has_come_to("returned", done):
            assert found == new
            leaves = {path.name for path in (image, manifest_of(image)) if has_manifest or path == image}
            assert leaves <= set(find(tree, image.parent))
        if tree in laid_out:
            continue
        laid_out.append(tree)
        place = folder / str(len(laid_out))
        lay_out(tree, place)
        # What restore opens, and what verify reads to its end.
        opened = open_image(place / image, BypassPolicy.PREFER)
        opened.file.close()
        assert image_verify(place / image).is_compared is has_manifest
        image_define(place / image, OTHER_XML.replace("restart", "preserve"))
        assert image_verify(place / image).is_compared is has_manifest
        copy = (place / image).with_name(XML_NAME)
        assert not copy.exists() or "preserve" in copy.read_text()
        assert not list(place.rglob("*.next")), "a definition leaves nothing of the one before"
    assert met == set(images)
    assert len(laid_out) > 5


def test_the_model_finds_a_missing_sync(tmp_path: Path, record: Callable[[Path], Recorder]) -> None:
    """Replacing a file without syncing it first: the model says that the name may mean an empty file.

    A proof that cannot fail proves nothing.
    """
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"old")
    recorder = record(root)
    with os.fdopen(os.open(root / "file.new", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(b"new")
    (root / "file.new").rename(root / "file")
    staging.sync_directory(root)

    recorder.check()
    assert any(isinstance(effect, Write) for effect in recorder.effects), "file objects are seen, too"
    assert {tree.get("file") for _, tree in crash_states(recorder)} >= {b"old", b"", b"new"}
