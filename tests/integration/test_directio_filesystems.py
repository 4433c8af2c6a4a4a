"""Write and read images on real file systems: both sector sizes, tmpfs, and two that refuse O_DIRECT."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from engine import preflight
from engine.cancel import CancelToken
from engine.directio.buffers import BufferRing
from engine.directio.probe import probe_direct_io
from engine.directio.reader import read_stream
from engine.directio.syscalls import cachestat_pages, direct_io_alignment, mincore_pages, rename_exclusively
from engine.directio.target import DEFAULT_BLOCK_SIZE, DirectFile, open_direct
from engine.errors import BypassError
from engine.flags import BypassFailure, BypassPolicy
from engine.units import MiB
from tests.data.file_systems import DISKS, STREAM_SIZE, Mounts, stream_bytes, write
from tests.fault.world import FaultyOs, MemoryHypervisor, World, guest_memory

pytestmark = pytest.mark.integration

NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    """Give a maker of file systems; all of them are gone afterwards, failures or not."""
    with ExitStack() as stack:
        yield Mounts(tmp_path_factory.mktemp("mounts"), stack)


@pytest.fixture(scope="module", params=DISKS, ids=str)
def disk(mounts: Mounts, request: pytest.FixtureRequest) -> Path:
    """Give a file system that does direct I/O."""
    return mounts.loop(*request.param)


@pytest.fixture(scope="module")
def tmpfs(mounts: Mounts) -> Path:
    """Give a file system that lets O_DIRECT through and keeps every page all the same."""
    return mounts.memory("tmpfs")


@pytest.fixture(scope="module")
def ramfs(mounts: Mounts) -> Path:
    """Give a file system that refuses O_DIRECT."""
    return mounts.memory("ramfs")


@pytest.fixture(scope="module")
def journaled(mounts: Mounts) -> Path:
    """Give an ext4 that lets O_DIRECT through, says that it does none, and writes through the cache."""
    return mounts.loop("ext4", 512, "data=journal")


@pytest.fixture
def new_file(request: pytest.FixtureRequest) -> Iterator[Callable[..., DirectFile]]:
    """Give a function that opens a new file of a directory, gone after the test."""
    opened: list[DirectFile] = []

    def make(directory: Path, policy: BypassPolicy) -> DirectFile:
        opened.append(open_direct(directory / f"{request.node.name[:40].replace('/', '-')}", NEW, policy))
        return opened[-1]

    yield make
    for file in opened:
        file.close()
        file.path.unlink()


def read(path: Path, policy: BypassPolicy) -> tuple[bytes, int]:
    """Return the bytes of a file as a restore reads them, and how many stayed in the cache."""
    received = bytearray()
    file = open_direct(path, os.O_RDONLY, policy)
    with closing(file):
        file.forget_cached()
        read_stream(
            file,
            path.stat().st_size,
            BufferRing(),
            expected=None,
            deliver=received.extend,
            before_last=lambda: None,
            on_progress=lambda _: None,
            cancel=CancelToken(),
        )
        return bytes(received), file.check_bypassed()


def test_stream_is_written_past_the_cache(disk: Path, new_file: Callable[..., DirectFile]) -> None:
    """An odd-sized stream arrives byte for byte, in blocks the file system wants, and no page stays."""
    file = new_file(disk, BypassPolicy.REQUIRE)

    written = write(file, stream_bytes())

    assert file.check_bypassed() == 0
    assert (file.is_direct, file.failures) == (True, [])
    align = direct_io_alignment(file.fd)
    assert align is not None
    assert file.block_size == max(DEFAULT_BLOCK_SIZE, *align)
    assert written.size == file.path.stat().st_size == STREAM_SIZE
    assert file.path.read_bytes() == stream_bytes()


def test_image_is_read_past_the_cache(disk: Path, new_file: Callable[..., DirectFile]) -> None:
    """What was written is read back byte for byte, the odd tail included, and no page stays."""
    file = new_file(disk, BypassPolicy.REQUIRE)
    write(file, stream_bytes())

    assert read(file.path, BypassPolicy.REQUIRE) == (stream_bytes(), 0)


def test_image_that_others_cached_is_read_past_the_cache(
    disk: Path, new_file: Callable[..., DirectFile]
) -> None:
    """Clean pages that somebody's read left are given up before, and none is there afterwards."""
    file = new_file(disk, BypassPolicy.REQUIRE)
    write(file, stream_bytes())
    file.path.read_bytes()
    assert file.resident_bytes() > 0

    assert read(file.path, BypassPolicy.REQUIRE) == (stream_bytes(), 0)


def test_policy_off_goes_through_the_cache(disk: Path, new_file: Callable[..., DirectFile]) -> None:
    """Off means the page cache, for writing and for reading, and is no failure."""
    file = new_file(disk, BypassPolicy.OFF)

    write(file, stream_bytes())

    assert file.check_bypassed() >= STREAM_SIZE
    assert (file.is_direct, file.failures) == (False, [])
    received, resident = read(file.path, BypassPolicy.OFF)
    assert received == stream_bytes()
    assert resident >= STREAM_SIZE


def test_reserved_space_leaves_no_page(disk: Path, new_file: Callable[..., DirectFile]) -> None:
    """Space set aside and cut off again costs neither length nor cache."""
    file = new_file(disk, BypassPolicy.REQUIRE)
    file.reserve(8 * MiB)

    write(file, stream_bytes())

    assert file.path.stat().st_size == STREAM_SIZE
    assert file.path.stat().st_blocks * 512 < 6 * MiB
    assert file.check_bypassed() == 0


def test_kernel_counts_pages_in_one_way(disk: Path, new_file: Callable[..., DirectFile]) -> None:
    """Cachestat and mincore agree on a file of which half was read."""
    file = new_file(disk, BypassPolicy.REQUIRE)
    write(file, stream_bytes())
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
    with file.path.open("rb", buffering=0) as reader:
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        reader.read(STREAM_SIZE // 2)

    pages = cachestat_pages(file.fd)

    assert pages == mincore_pages(file.fd, STREAM_SIZE) == -(-(STREAM_SIZE // 2) // 4096)


def test_probe_leaves_nothing(disk: Path) -> None:
    """A directory that can is found so, by a file that is gone again."""
    before = sorted(disk.iterdir())

    for policy in BypassPolicy:
        probe_direct_io(disk, policy)

    assert sorted(disk.iterdir()) == before


def test_rename_never_overwrites(disk: Path) -> None:
    """A target that exists is refused; both files stay as they were."""
    ours, theirs = disk / "ours", disk / "theirs"
    ours.write_text("ours")
    theirs.write_text("theirs")

    with pytest.raises(FileExistsError):
        rename_exclusively(ours, theirs)

    assert (ours.read_text(), theirs.read_text()) == ("ours", "theirs")
    theirs.unlink()
    rename_exclusively(ours, theirs)
    assert theirs.read_text() == "ours"
    theirs.unlink()


def test_save_and_restore(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both use cases bypass the cache on a real file system; the image is found byte for byte."""
    monkeypatch.setattr(preflight, "IMAGE_MARGIN", 1 * MiB)
    folder = disk / "world"
    world = World(folder, MemoryHypervisor(memory=guest_memory(STREAM_SIZE)), FaultyOs())

    saved = world.save()
    restored = world.restore()

    world.assert_nothing_is_left()
    assert bytes(world.hypervisor.received) == world.final.read_bytes()
    for outcome in (saved, restored):
        assert outcome.bypass_cache.direct
        assert outcome.bypass_cache.resident_bytes == 0
        assert outcome.bypass_cache.direct_bytes == world.final.stat().st_size


def test_tmpfs_is_refused_when_bypass_is_required(tmpfs: Path) -> None:
    """Tmpfs lets O_DIRECT through, yet its files are nothing but cache: the probe finds out."""
    before = sorted(tmpfs.iterdir())

    with pytest.raises(BypassError) as caught:
        probe_direct_io(tmpfs, BypassPolicy.REQUIRE)

    assert caught.value.exit_code == 22
    assert caught.value.reason in {"resident_pages", "unsupported_filesystem"}
    assert sorted(tmpfs.iterdir()) == before


def test_save_on_tmpfs_is_refused_before_the_guest_is_touched(
    tmpfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `require` the guest is not even paused."""
    monkeypatch.setattr(preflight, "IMAGE_MARGIN", 1 * MiB)
    world = World(tmpfs / "world", MemoryHypervisor(memory=guest_memory(STREAM_SIZE)), FaultyOs())

    with pytest.raises(BypassError):
        world.save()

    assert world.hypervisor.moments == []
    world.assert_nothing_happened()


def test_save_on_tmpfs_with_prefer_succeeds_and_says_so(tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `prefer` it succeeds, and the outcome counts what stayed in the cache, with the reason."""
    monkeypatch.setattr(preflight, "IMAGE_MARGIN", 1 * MiB)
    world = World(tmpfs / "prefer", MemoryHypervisor(memory=guest_memory(STREAM_SIZE)), FaultyOs())

    saved = world.save(policy=BypassPolicy.PREFER)

    world.assert_saved(world.final)
    assert saved.bypass_cache.failures
    assert not saved.bypass_cache.direct
    assert saved.bypass_cache.resident_bytes is not None
    assert saved.bypass_cache.resident_bytes >= STREAM_SIZE


@pytest.mark.parametrize("where", ["ramfs", "journaled"])
def test_file_system_without_direct_io_is_refused(request: pytest.FixtureRequest, where: str) -> None:
    """With `require` a file system that refuses O_DIRECT, at open or by its word, is named as such."""
    directory: Path = request.getfixturevalue(where)
    before = sorted(directory.iterdir())

    with pytest.raises(BypassError) as caught:
        probe_direct_io(directory, BypassPolicy.REQUIRE)

    assert caught.value.reason == BypassFailure.UNSUPPORTED_FILESYSTEM
    assert str(directory) in str(caught.value)
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("where", ["ramfs", "journaled"])
def test_prefer_falls_back_and_counts_it(
    request: pytest.FixtureRequest, new_file: Callable[..., DirectFile], where: str
) -> None:
    """With `prefer` the same file systems are written through the cache, and both reasons are told."""
    file = new_file(request.getfixturevalue(where), BypassPolicy.PREFER)

    write(file, stream_bytes())

    assert not file.is_direct
    assert file.failures == [BypassFailure.UNSUPPORTED_FILESYSTEM, BypassFailure.FALLBACK_BUFFERED]
    received, _ = read(file.path, BypassPolicy.PREFER)
    assert received == stream_bytes()


def test_prefer_gives_up_the_pages_it_can(journaled: Path, new_file: Callable[..., DirectFile]) -> None:
    """A fall-back still leaves no clean page of the image behind on a disk."""
    file = new_file(journaled, BypassPolicy.PREFER)

    write(file, stream_bytes())

    assert file.check_bypassed() < STREAM_SIZE // 2
