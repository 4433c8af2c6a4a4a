"""Copy a save image with another front; the memory shares its blocks with the original where possible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.directio.buffers import BufferRing
from engine.directio.copy import copy_blocks, share_blocks
from engine.directio.target import DirectFile, open_direct, storage_error
from engine.errors import StorageError
from engine.image.edit import STREAM_SHIFT, EditedHead
from engine.store.images import OpenImage, read_head
from engine.store.places import FILE_STAGING_PREFIX, IMAGE_NAME, REPLACEMENT_PREFIX, STAGING_NAME
from engine.store.staging import lock_directory
from engine.units import round_up

#: Bytes of a block as stat(2) counts them.
_STAT_BLOCK: Final = 512


def write_edited(
    old: OpenImage, edited: EditedHead, target: DirectFile, *, on_progress: Callable[[int], None]
) -> bool:
    """Write the memory, shared where possible, then the front over it; tell whether it was shared.

    The target may be longer than the image afterwards, by its padding; nothing is synced.

    Args:
        old: the image.
        edited: its new front.
        target: an empty file of the same block size, open for writing.
        on_progress: called with the bytes of the old image that are behind.

    Raises:
        OSError, NoSpaceError, StorageError: a disk failed; the target is not to be used.
    """
    stream_offset = old.head.header.stream_offset
    # The front's last block is the memory's first: it is written with the front.
    begin = stream_offset // STREAM_SHIFT * STREAM_SHIFT
    is_shared = share_blocks(old.file, target, begin, edited.shift)
    if not is_shared:
        if os.fstat(old.file.fd).st_blocks * _STAT_BLOCK >= old.size:
            target.reserve(old.size + edited.shift)
        copy_blocks(old.file, target, begin, edited.shift, old.size, on_progress=on_progress)
    front = edited.data + old.first_bytes[stream_offset : round_up(stream_offset, target.block_size)]
    buffer = BufferRing(count=1, size=round_up(len(front), target.block_size)).take()
    assert buffer is not None
    buffer[: len(front)] = front
    target.write_at(buffer, 0)
    return is_shared


def check_written(file: DirectFile, edited: EditedHead) -> None:
    """Refuse an image whose front, read from the disk, is not the one that was written.

    Raises:
        StorageError: it is not.
    """
    head, _ = read_head(file)
    if head != edited.head:
        raise StorageError(str(file.path), "the head read back is not the one written", "", "check the disk")


@contextmanager
def open_edited_copy(
    old: OpenImage, edited: EditedHead, job_id: str, *, on_progress: Callable[[int], None]
) -> Iterator[Path]:
    """Give the path of a copy of the image with another front; it is gone after the block.

    Recovery sweeps what is left of it should this process die: it is nobody's only copy.

    Args:
        old: the image; only read.
        edited: the copy's front.
        job_id: names the staging directory.
        on_progress: called with the bytes of the old image that are behind.

    Raises:
        StorageError, NoSpaceError, BypassError: it could not be made; nothing of it is left.
    """
    staging = copy_staging_of(old.file.path, job_id)
    lock = None
    try:
        try:
            staging.mkdir(mode=0o700)
            lock = lock_directory(staging)
            copy = _make(old, edited, staging / IMAGE_NAME, on_progress)
        except OSError as error:
            raise storage_error(str(staging), error, "copying the image") from error
        yield copy
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def copy_staging_of(image: Path, job_id: str) -> Path:
    """Return the directory that a job's copy of an image is written to, on the image's file system."""
    shared = image.parent.parent.parent / STAGING_NAME
    if image.name == IMAGE_NAME and shared.is_dir():
        return shared / f"{REPLACEMENT_PREFIX}{job_id}"
    return image.with_name(f"{FILE_STAGING_PREFIX}{REPLACEMENT_PREFIX}{job_id}")


def _make(old: OpenImage, edited: EditedHead, path: Path, on_progress: Callable[[int], None]) -> Path:
    """Write the copy and look at its head from the disk."""
    file = open_direct(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, old.file.policy)
    try:
        write_edited(old, edited, file, on_progress=on_progress)
        file.truncate(old.size + edited.shift)
        file.sync()
        check_written(file, edited)
        file.check_bypassed()
    finally:
        file.close()
    return path
