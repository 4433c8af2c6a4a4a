from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.directio import residency
from engine.directio.residency import drop_clean_pages, resident_bytes
from engine.directio.syscalls import cachestat_pages, mincore_pages

SIZE = 1_000_001
PAGES = -(-SIZE // 4096)


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[int]:
    """Give an open file of which no page is in the cache."""
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(SIZE))  # noqa: S311
    fd = os.open(path, os.O_RDWR)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.fsync(fd)
    drop_clean_pages(fd)
    yield fd
    os.close(fd)


def test_cold_file_has_no_pages(cold: int) -> None:
    """What was dropped is not counted."""
    assert resident_bytes(cold) == 0
    assert mincore_pages(cold, SIZE) == 0


@pytest.mark.parametrize("read", [1, 4096, 4097, SIZE // 2, SIZE])
def test_both_counts_agree_on_what_was_read(cold: int, read: int) -> None:
    """Cachestat and mincore see the pages that a read brought in, the last and short one included."""
    os.pread(cold, read, 0)

    assert cachestat_pages(cold) == mincore_pages(cold, SIZE) == -(-read // 4096)


def test_dirty_pages_count_and_stay(cold: int) -> None:
    """A page that is not on the disk yet cannot be dropped, and is counted."""
    os.pwrite(cold, b"x" * 8192, 0)
    drop_clean_pages(cold)
    assert resident_bytes(cold) in {0, 8192}

    os.fsync(cold)
    drop_clean_pages(cold)

    assert resident_bytes(cold) == 0


def test_pages_are_dropped_from_an_offset_on(cold: int) -> None:
    """What stands before the offset is left alone."""
    os.pread(cold, SIZE, 0)

    drop_clean_pages(cold, 8 * 4096)

    assert resident_bytes(cold) == 8 * 4096


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
def test_older_kernels_are_asked_in_the_older_way(
    cold: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Without cachestat, or where it is forbidden, mincore counts."""

    def refused(_fd: int) -> int:
        raise OSError(code, os.strerror(code))

    os.pread(cold, 5 * 4096, 0)
    monkeypatch.setattr(residency, "cachestat_pages", refused)

    assert resident_bytes(cold) == 5 * 4096


def test_other_errors_are_not_swallowed() -> None:
    """A descriptor that is none is an error, not an empty cache."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        resident_bytes(10_000)


def test_empty_file_has_no_pages(tmp_path: Path) -> None:
    """Nothing can be mapped of it, and nothing has to."""
    path = tmp_path / "empty"
    path.touch()
    fd = os.open(path, os.O_RDONLY)

    assert resident_bytes(fd) == mincore_pages(fd, 0) == 0
    os.close(fd)
