from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.directio import target as target_module
from engine.directio.target import DirectFile, open_direct, storage_error
from engine.errors import BypassError, NoSpaceError, StorageError
from engine.flags import BypassFailure, BypassPolicy
from tests.fault.world import FaultyOs, refusal

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    """Give a disk that fails on command."""
    faulty = FaultyOs()
    monkeypatch.setattr(target_module, "os", faulty)
    return faulty


def block(size: int = 8192, fill: bytes = b"x") -> memoryview:
    """Return an aligned buffer."""
    buffer = memoryview(mmap.mmap(-1, size))
    buffer[:] = fill * size
    return buffer


@pytest.mark.parametrize("policy", BypassPolicy)
def test_file_is_made_for_its_owner_alone(tmp_path: Path, policy: BypassPolicy) -> None:
    """Mode 0600, closed in children, O_DIRECT as the policy says."""
    with closing(open_direct(tmp_path / "a", NEW, policy)) as file:
        assert file.path.stat().st_mode & 0o777 == 0o600
        assert not os.get_inheritable(file.fd)
        assert file.is_direct is (policy is not BypassPolicy.OFF)
        assert file.failures == []


@pytest.mark.parametrize("policy", BypassPolicy)
def test_existing_file_is_not_opened_as_a_new_one(tmp_path: Path, policy: BypassPolicy) -> None:
    """O_EXCL holds with every policy, and the file stays as it was."""
    (tmp_path / "a").write_text("theirs")

    with pytest.raises(StorageError, match="File exists"):
        open_direct(tmp_path / "a", NEW, policy)

    assert (tmp_path / "a").read_text() == "theirs"


def test_refused_direct_io_follows_the_policy(tmp_path: Path, disk: FaultyOs) -> None:
    """`require` fails, `prefer` goes on through the cache and counts both reasons."""
    for nth in range(2):
        disk.plan("open", refusal(errno.EINVAL), name="a", nth=nth)

    with pytest.raises(BypassError, match="refuses O_DIRECT") as caught:
        open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)
    with closing(open_direct(tmp_path / "a", NEW, BypassPolicy.PREFER)) as file:
        assert not file.is_direct
        assert file.failures == [BypassFailure.UNSUPPORTED_FILESYSTEM, BypassFailure.FALLBACK_BUFFERED]

    assert caught.value.reason == "unsupported_filesystem"


@pytest.mark.parametrize("policy", BypassPolicy)
@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.EROFS, errno.ENOSPC])
def test_other_refusals_are_no_question_of_policy(
    tmp_path: Path, disk: FaultyOs, policy: BypassPolicy, code: int
) -> None:
    """Only EINVAL means that direct I/O is refused."""
    disk.plan("open", refusal(code), name="a")

    with pytest.raises((StorageError, NoSpaceError), match=os.strerror(code)):
        open_direct(tmp_path / "a", NEW, policy)


@pytest.mark.parametrize(
    ("align", "block_size"), [(None, 4096), ((512, 512), 4096), ((512, 4096), 4096), ((4, 16384), 16384)]
)
def test_block_size_is_what_the_file_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, align: tuple[int, int] | None, block_size: int
) -> None:
    """Never less than a page; more where statx says so."""
    monkeypatch.setattr(target_module, "direct_io_alignment", lambda _fd: align)

    with closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file:
        assert file.block_size == block_size


def half(real: Callable[..., int], fd: int, data: Any, offset: int) -> int:
    """Write one block of several."""
    return real(fd, data[:4096], offset)


def odd(real: Callable[..., int], fd: int, data: Any, offset: int) -> int:
    """Write less than a block."""
    return real(fd, data[:512], offset)


def test_short_write_of_whole_blocks_goes_on(tmp_path: Path, disk: FaultyOs) -> None:
    """The kernel may write less than asked for; the rest follows."""
    disk.plan("pwrite", half, name="a")
    with closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file:
        file.write_at(block(12288), 4096)

    assert (tmp_path / "a").read_bytes() == bytes(4096) + b"x" * 12288


def test_torn_block_is_an_error(tmp_path: Path, disk: FaultyOs) -> None:
    """Half a block cannot be gone on from with direct I/O."""
    disk.plan("pwrite", odd, name="a")
    with (
        closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file,
        pytest.raises(StorageError, match="short write of 512 bytes at byte 4096"),
    ):
        file.write_at(block(), 4096)


def test_torn_block_is_gone_on_from_through_the_cache(tmp_path: Path, disk: FaultyOs) -> None:
    """Without direct I/O any count is as good as another."""
    disk.plan("pwrite", odd, name="a")
    with closing(open_direct(tmp_path / "a", NEW, BypassPolicy.OFF)) as file:
        file.write_at(block(), 0)

    assert (tmp_path / "a").read_bytes() == b"x" * 8192


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EFBIG, NoSpaceError),
        (errno.EIO, StorageError),
    ],
)
def test_failed_write_names_the_first_byte_lost(
    tmp_path: Path, disk: FaultyOs, code: int, error: type[Exception]
) -> None:
    """Bytes before it are written, and it is told where they end."""
    disk.plan("pwrite", half, name="a")
    disk.plan("pwrite", refusal(code), name="a", nth=1)
    with (
        closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file,
        pytest.raises(error, match="writing at byte 4096"),
    ):
        file.write_at(block(), 0)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8191, 8192])
def test_read_ends_with_the_file(tmp_path: Path, size: int) -> None:
    """A short read is the end of the file, wherever in a block that is."""
    (tmp_path / "a").write_bytes(b"y" * size)
    buffer = block(8192)
    with closing(open_direct(tmp_path / "a", os.O_RDONLY, BypassPolicy.REQUIRE)) as file:
        assert file.read_at(buffer, 0) == size

    assert bytes(buffer[:size]) == b"y" * size


def test_failed_read_names_its_offset(tmp_path: Path, disk: FaultyOs) -> None:
    """The operator learns where the disk is bad."""
    (tmp_path / "a").write_bytes(bytes(8192))
    disk.plan("preadv", refusal(errno.EIO), name="a")
    with (
        closing(open_direct(tmp_path / "a", os.O_RDONLY, BypassPolicy.REQUIRE)) as file,
        pytest.raises(StorageError, match="reading at byte 4096"),
    ):
        file.read_at(block(4096), 4096)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_that_cannot_reserve_is_not_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Reserving is a kindness; where there is none, writing finds out."""

    def refused(_fd: int, _size: int) -> None:
        raise refusal(code)

    monkeypatch.setattr(target_module, "reserve_space", refused)
    with closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file:
        file.reserve(1 << 40)


def test_foreign_pages_are_not_counted_against_a_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others hold in the cache before is no failure; one page more is."""
    (tmp_path / "a").write_bytes(bytes(40960))
    found = [12288, 12288, 16384]
    monkeypatch.setattr(target_module, "resident_bytes", lambda _fd: found.pop(0))
    with closing(open_direct(tmp_path / "a", os.O_RDONLY, BypassPolicy.REQUIRE)) as file:
        file.forget_cached()
        assert file.check_bypassed() == 12288
        assert file.failures == []
        with pytest.raises(BypassError, match="16384 bytes of it are in the page cache") as caught:
            file.check_bypassed()

    assert caught.value.reason == "resident_pages"


@pytest.mark.parametrize(
    ("policy", "failures"), [(BypassPolicy.PREFER, [BypassFailure.RESIDENT_PAGES]), (BypassPolicy.OFF, [])]
)
def test_resident_pages_are_counted_or_wanted(
    tmp_path: Path, policy: BypassPolicy, failures: list[BypassFailure]
) -> None:
    """`prefer` counts what stayed; `off` never minded."""
    (tmp_path / "a").write_bytes(bytes(8192))
    with closing(open_direct(tmp_path / "a", os.O_RDONLY, policy)) as file:
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
        (tmp_path / "a").read_bytes()
        assert file.check_bypassed() == 8192
        assert file.failures == failures


def test_cut_and_synced_file_leaves_no_page(tmp_path: Path) -> None:
    """Cutting inside a block brings its page into the cache; the sync gives it up again."""
    with closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file:
        file.write_at(block(), 0)
        file.truncate(5000)
        file.sync()
        assert file.check_bypassed() == 0

    assert (tmp_path / "a").read_bytes() == b"x" * 5000


@pytest.mark.parametrize(
    ("call", "method", "arguments"),
    [("fsync", "sync", ()), ("ftruncate", "truncate", (5,)), ("fdatasync", "forget_cached", ())],
)
def test_failing_calls_are_errors_of_ours(
    tmp_path: Path, disk: FaultyOs, call: str, method: str, arguments: tuple[int, ...]
) -> None:
    """Whatever fails is named with the file."""
    disk.plan(call, refusal(errno.EIO), name="a")
    with (
        closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file,
        pytest.raises(StorageError, match=f"{tmp_path}/a: .*Input/output error"),
    ):
        getattr(file, method)(*arguments)


def test_storage_error_says_what_was_done() -> None:
    """The sentence has the path, what was being done, and what the kernel said."""
    error = storage_error("/a", refusal(errno.EROFS), "opening")

    assert str(error) == "/a: opening: Read-only file system; check the directory, its owner and the disk"
    assert isinstance(storage_error("/a", refusal(errno.ENOSPC), "writing"), NoSpaceError)


def test_closed_file_is_closed(tmp_path: Path) -> None:
    """The descriptor is given back."""
    file: DirectFile = open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)
    file.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.fd)
