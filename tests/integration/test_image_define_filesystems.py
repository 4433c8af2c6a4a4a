"""Give images another XML on real file systems: blocks shared where they can be, copied elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.define import image_define
from engine.examine import image_dumpxml, image_info
from engine.flags import BypassPolicy
from engine.image.header import ImageFormat
from engine.store.images import open_image
from engine.units import MiB
from engine.verify import image_verify
from tests.data.file_systems import DISKS, Mounts
from tests.data.image_files import LARGE_XML, OTHER_XML, memory_stream, write_image

pytestmark = pytest.mark.integration

#: Several buffers, the last one not full, nor its last block.
STREAM = memory_stream(20 * MiB + 12_345)


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    """Give a maker of file systems; all of them are gone afterwards, failures or not."""
    with ExitStack() as stack:
        yield Mounts(tmp_path_factory.mktemp("mounts"), stack)


@pytest.fixture(scope="module", params=[*DISKS, ("tmpfs", 0), ("ramfs", 0)], ids=str)
def place(mounts: Mounts, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Give a kind of file system and the root of one."""
    kind, sector_size = request.param
    return kind, mounts.loop(kind, sector_size) if sector_size else mounts.memory(kind)


@pytest.mark.parametrize("has_manifest", [True, False], ids=["manifest", "bare"])
def test_definition_keeps_every_byte_of_the_memory(place: tuple[str, Path], has_manifest: bool) -> None:
    """In place and moved; xfs shares the memory's blocks whatever the sector size."""
    kind, root = place
    path = root / "a.save"
    write_image(path, stream=STREAM, has_manifest=has_manifest)

    for xml in (OTHER_XML, LARGE_XML):
        done = image_define(path, xml)

        assert done.has_shared_blocks is (kind == "xfs")
        assert (done.moved_bytes > 0) is (xml == LARGE_XML)
        assert image_dumpxml(path) == xml
        with path.open("rb") as file:
            file.seek(image_info(path).head_bytes)
            assert file.read() == STREAM
        assert image_verify(path, bypass_cache="prefer").is_compared is has_manifest
    assert {each.name.removeprefix("a.save") for each in root.iterdir() if "a.save" in each.name} == (
        {"", ".manifest.json"} if has_manifest else {""}
    )
    for each in root.glob("a.save*"):
        each.unlink()


@pytest.mark.parametrize("disk", DISKS, ids=str)
def test_definition_leaves_nothing_in_the_cache(mounts: Mounts, disk: tuple[str, int]) -> None:
    """With `require` it would fail otherwise: neither the copy nor the look at it uses the cache."""
    path = mounts.loop(*disk) / "a.save"
    write_image(path, stream=STREAM)

    image_define(path, LARGE_XML, bypass_cache=BypassPolicy.REQUIRE)

    image = open_image(path, BypassPolicy.REQUIRE)
    assert image.file.resident_bytes() == 0
    image.file.close()
    assert image_verify(path).bypass_cache.resident_bytes == 0


def test_shared_memory_takes_no_room(mounts: Mounts) -> None:
    """On xfs an image larger than what is free gets another XML."""
    root = mounts.loop("xfs", 512)
    path = root / "a.save"
    write_image(path, stream=memory_stream(1 * MiB), has_manifest=False)
    with path.open("r+b") as file:
        file.seek(2 * MiB)
        for _ in range(150):
            file.write(b"p" * MiB)

    done = image_define(path, LARGE_XML)

    assert done.has_shared_blocks
    assert image_info(path).file_bytes == 152 * MiB + done.moved_bytes


def test_sparse_image_on_xfs(mounts: Mounts) -> None:
    """Holes stay holes when blocks are shared."""
    path = mounts.loop("xfs", 4096) / "a.save"
    image = write_image(path, image_format=ImageFormat.SPARSE, stream=memory_stream(MiB), has_manifest=False)
    with path.open("r+b") as file:
        file.truncate(len(image) + 2**33)

    image_define(path, OTHER_XML)

    assert path.stat().st_size == len(image) + 2**33
    assert path.stat().st_blocks * 512 < 4 * MiB
