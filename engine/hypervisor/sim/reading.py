"""Read save images in the two visits that libvirt makes.

Source: libvirt src/qemu/qemu_saveimage.c, qemuSaveImageGetMetadata(), qemuSaveImageOpen().
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import ImageFormatError
from engine.hypervisor.sim.codes import OPERATION_FAILED, failure, system_failure
from engine.hypervisor.sim.files import Source
from engine.hypervisor.sim.job import SimJob
from engine.hypervisor.sim.memory import load_memory
from engine.image.header import HEADER_SIZE, MAGIC_DONE, MAGIC_PARTIAL, Header, ImageFormat, parse_header


@dataclass(frozen=True, slots=True, kw_only=True)
class SimImageHead:
    """What stands before the memory."""

    header: Header
    xml: str


def read_head(source: Source, where: str) -> SimImageHead:
    """Read header, XML and cookie from the front of an image.

    Raises:
        HypervisorError: in libvirt's words: no image, or one that is not whole.
    """
    data = source.read(HEADER_SIZE)
    if len(data) < HEADER_SIZE:
        raise failure(OPERATION_FAILED, where, "operation failed: failed to read qemu header")
    if data[:16] == MAGIC_PARTIAL:
        raise failure(OPERATION_FAILED, where, "operation failed: save image is incomplete")
    if data[:16] != MAGIC_DONE:
        raise failure(OPERATION_FAILED, where, "operation failed: image magic is incorrect")
    try:
        header = parse_header(data, path=where)
    except ImageFormatError as error:
        raise failure(OPERATION_FAILED, where, f"operation failed: {error.found}") from error
    blob = source.read(header.data_size)
    if len(blob) < header.data_size:
        raise failure(OPERATION_FAILED, where, "operation failed: failed to read domain XML")
    if header.format is not ImageFormat.RAW:
        found = "Compression program for save image format in configuration file isn't available"
        raise failure(OPERATION_FAILED, where, f"operation failed: {found}")
    return SimImageHead(header=header, xml=blob.partition(b"\0")[0].decode(errors="replace"))


def open_source(path: str, where: str, check: Callable[[], None], *, direct: bool = False) -> Source:
    """Open an image for reading.

    Raises:
        StorageError: it cannot be opened.
    """
    try:
        return Source(path, where, check, direct=direct)
    except OSError as error:
        raise system_failure(where, f"Failed to open file '{path}'", error) from error


def load_image(job: SimJob, source: Source) -> int:
    """Take up the memory behind the head; return the guest's counter.

    Raises:
        HypervisorError: it is damaged or cut short.
    """

    def read(size: int) -> bytes:
        job.spend(size)
        try:
            return source.read(size)
        except OSError as error:
            raise system_failure(job.before.name, "cannot read the image", error) from error

    counter = load_memory(read, job.before.name, on_half=lambda: job.reach("memory"))
    job.reach("loaded")
    return counter
