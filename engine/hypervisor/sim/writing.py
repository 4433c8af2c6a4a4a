"""Write save images in the two visits that libvirt makes.

Source: libvirt src/qemu/qemu_saveimage.c, qemuSaveImageCreate(), virQEMUSaveDataFinish().
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from engine.hypervisor.sim.codes import (
    INTERNAL_ERROR,
    OPERATION_FAILED,
    failure,
    system_failure,
)
from engine.hypervisor.sim.files import Target, open_target
from engine.hypervisor.sim.job import SimJob
from engine.hypervisor.sim.memory import MemoryWriter
from engine.image.header import Header, ImageFormat

COOKIE: Final = "<cookie><simulated/></cookie>"
#: Bytes of zeros that libvirt leaves behind the cookie for a longer XML.
_PADDING_SIZE: Final = 65536


def write_image(
    job: SimJob,
    path: str,
    xml: str,
    *,
    was_running: bool,
    direct: bool = False,
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Write the guest of the job to path, in two visits.

    Args:
        job: the guest stands, or is to be paused at the end of the transfer.
        path: target.
        xml: domain XML for the image.
        was_running: what the header says.
        direct: past the page cache.
        pause: stops the CPUs before the last bytes.

    Raises:
        EngineError: in libvirt's words; a file that was not there before is not there afterwards.
    """
    blob = xml.encode() + b"\0" + COOKIE.encode() + b"\0" + bytes(_PADDING_SIZE)
    header = Header(
        is_complete=False,
        version=2,
        data_size=len(blob),
        was_running=was_running,
        format=ImageFormat.RAW,
        cookie_offset=len(xml.encode()) + 1,
    )
    with _Created(path):
        job.set_lock(is_held=True)
        write_stream(job, path, header.pack() + blob, direct=direct, pause=pause)
        job.reach("closed")
        job.set_lock(is_held=True)
        _mark_complete(job, path, header)


def write_dump(job: SimJob, path: str, *, direct: bool) -> None:
    """Write the guest's memory alone to path, in one visit.

    Raises:
        EngineError: in libvirt's words.
    """
    with _Created(path):
        job.set_lock(is_held=True)
        write_stream(job, path, b"", direct=direct)
        job.reach("closed")


class _Created:
    """Removes a file that failed, unless it was there before or the daemon is dead."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._was_there = os.path.lexists(path)

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and not self._was_there:
            with suppress(FileNotFoundError):
                Path(self._path).unlink()


def write_stream(
    job: SimJob,
    path: str,
    head: bytes,
    *,
    direct: bool,
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Open path, let the lock go, write head and memory as through libvirt's I/O helper, close it."""
    name = job.before.name
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | (os.O_DIRECT if direct else 0)
    try:
        fd = open_target(path, flags, job.check)
    except OSError as error:
        raise system_failure(name, f"Failed to create file '{path}'", error) from error
    target = Target(fd, name, job.check, direct=direct)
    try:
        job.set_lock(is_held=False)
        job.reach("opened")
        try:
            target.write(head)
            job.reach("head")
            _write_memory(job, target, pause)
        except OSError as error:
            raise _transfer_failure(name, path, error) from error
    finally:
        target.close()


def _write_memory(job: SimJob, target: Target, pause: Callable[[], None]) -> None:
    domain = job.before
    writer = MemoryWriter(domain.uuid, domain.memory_bytes)
    to_half: int | None = domain.memory_bytes // 2
    for piece in writer.pieces():
        target.write(piece)
        job.spend(len(piece))
        if to_half is not None:
            to_half -= len(piece)
            if to_half <= 0:
                job.reach("memory")
                to_half = None
    pause()
    standing = job.change(lambda now: now)
    target.write(writer.tail(standing.counter(time.monotonic())))
    target.finish()


def _transfer_failure(name: str, path: str, error: OSError) -> Exception:
    """Return what libvirt makes of its I/O helper's end."""
    if error.errno == errno.EPIPE:
        found = f"internal error: Child process (libvirt_iohelper {path}) unexpected fatal signal 13"
        return failure(INTERNAL_ERROR, name, found)
    found = f"operation failed: libvirt_iohelper: failure with {path}: {error.strerror}"
    return failure(OPERATION_FAILED, name, found)


def _mark_complete(job: SimJob, path: str, header: Header) -> None:
    name = job.before.name
    try:
        target = Target(open_target(path, os.O_WRONLY, job.check), name, job.check)
        try:
            job.reach("reopened")
            target.write(replace(header, is_complete=True).pack())
        finally:
            target.close()
    except OSError as error:
        found = f"failed to write header to domain save file '{path}'"
        raise system_failure(name, found, error) from error
