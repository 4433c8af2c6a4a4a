"""Read a save image again, every byte from the disk, and name what is no longer as it was written."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from engine.cancel import CancelToken
from engine.checksum import Checksum
from engine.describe import Transfer
from engine.directio.buffers import BufferRing
from engine.directio.reader import read_stream
from engine.directio.target import DirectFile
from engine.errors import ChecksumError, ImageFormatError
from engine.examine import locate_image, name_errors
from engine.flags import BypassPolicy
from engine.image.manifest import Manifest
from engine.image.stream import BEGINNING_SIZE, check_beginning
from engine.observer import Observer, SilentObserver
from engine.outcome import BypassReport
from engine.store.images import check_has_memory, check_size, open_with_manifest, read_head
from engine.units import MiB

#: Damaged parts that an error's sentence names; its fields name all.
_NAMED_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedPart:
    """A stretch of an image whose bytes are not those that were written."""

    #: Counted from 0.
    number: int
    #: Bytes of the file: from `start` up to, not including, `end`.
    start: int
    end: int


class DamagedPartsError(ChecksumError):
    """Parts of an image are not what was written; `parts` says which."""

    def __init__(self, *texts: Any) -> None:
        super().__init__(*texts)
        self.parts: tuple[DamagedPart, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Add the damaged parts."""
        document = super().to_dict()
        document["fields"]["damaged_parts"] = [asdict(part) for part in self.parts]
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """An image that was read to its end and in which nothing wrong was found."""

    #: The image file, links followed.
    path: str
    #: Length of the image.
    bytes: int
    #: False where no manifest lies beside the image: every byte could be read, no more is known.
    is_compared: bool
    #: Of the bytes that were read.
    checksum: Checksum
    duration_seconds: float
    throughput_bytes_per_second: float
    bypass_cache: BypassReport

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object, without the checksums of parts."""
        document = asdict(self)
        document["parts"] = len(self.checksum.parts)
        document["checksum"] = {"algorithm": self.checksum.algorithm, "value": self.checksum.value}
        return document


def image_verify(
    path: Path | str,
    *,
    bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
) -> Verification:
    """Read an image from the disk to its end and compare it with its manifest.

    Without a manifest there is nothing to compare with: head, length and the beginning of
    the memory stream are looked at, and every byte is read.

    Args:
        path: a save image, or the directory of a restore point.
        bypass_cache: past the page cache, which might know better than the disk.
        observer: told of progress.
        cancel: stops it.

    Raises:
        DamagedPartsError: it is not what was written; names the parts.
        ImageFormatError: it is no save image.
        ImageIncompleteError: its save never finished, or its length is not what its manifest says.
        StorageError, BypassError: it cannot be read, or not so.
    """
    began = time.monotonic()
    observer = observer or SilentObserver()
    with name_errors(path):
        file, size, manifest = open_with_manifest(locate_image(path), BypassPolicy(bypass_cache))
        try:
            _check_front(file, size, manifest)
            found = read_stream(
                file,
                size,
                BufferRing(),
                expected=None,
                deliver=lambda _: None,
                before_last=lambda: None,
                on_progress=lambda done: observer.progress(done, size),
                cancel=cancel or CancelToken(),
            )
            resident_bytes = file.check_bypassed()
            if manifest is not None:
                compare(found, manifest.checksum, path=str(file.path), size=size)
            transfer = Transfer(
                file=file,
                size=size,
                checksum=found,
                final_block=b"",
                seconds=time.monotonic() - began,
                resident_bytes=resident_bytes,
            )
        finally:
            file.close()
    return Verification(
        path=str(file.path),
        bytes=size,
        is_compared=manifest is not None,
        checksum=found,
        duration_seconds=transfer.seconds,
        throughput_bytes_per_second=transfer.throughput(),
        bypass_cache=transfer.bypass_report(),
    )


def compare(found: Checksum, expected: Checksum, *, path: str, size: int) -> None:
    """Compare the checksums of an image with what they should be.

    Raises:
        DamagedPartsError: they differ.
    """
    if found == expected:
        return
    damaged = tuple(
        DamagedPart(
            number=number, start=number * expected.part_size, end=min(size, (number + 1) * expected.part_size)
        )
        for number in range(max(len(found.parts), len(expected.parts)))
        if found.parts[number : number + 1] != expected.parts[number : number + 1]
    )
    error = DamagedPartsError(
        path,
        _sentence(damaged, expected.part_size)
        if damaged
        else "every part fits, the checksum of all does not",
        f"{expected.algorithm} {expected.value[:16]}...",
        "the image is not what was saved: restore another restore point"
        if damaged
        else "the manifest contradicts itself: restore another restore point",
    )
    error.parts = damaged
    raise error


def _check_front(file: DirectFile, size: int, manifest: Manifest | None) -> None:
    """Refuse what need not be read to its end; where there is a checksum, a damaged head is its to name."""
    check_size(file.path, size, manifest)
    try:
        head, first_bytes = read_head(file)
    except ImageFormatError:
        if manifest is None:
            raise
        return
    if manifest is None:
        header = head.header
        check_has_memory(file.path, size, head)
        stream = first_bytes[header.stream_offset : header.stream_offset + BEGINNING_SIZE]
        check_beginning(stream, header.format, path=str(file.path), offset=header.stream_offset)


def _sentence(damaged: tuple[DamagedPart, ...], part_size: int) -> str:
    """Name the damaged parts, not all of them if there are many."""
    named = ", ".join(
        f"{part.number} (bytes {part.start} to {part.end - 1})" for part in damaged[:_NAMED_MAX]
    )
    more = f" and {len(damaged) - _NAMED_MAX} more" if len(damaged) > _NAMED_MAX else ""
    word = "part" if len(damaged) == 1 else "parts"
    return f"damaged in {word} {named}{more}, counted from 0, of {part_size // MiB} MiB each"
