"""Open images for reading: head, manifest and length, past the page cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.directio.buffers import BufferRing
from engine.directio.target import DirectFile, open_direct
from engine.errors import ImageFormatError, ImageIncompleteError, StorageError
from engine.flags import BypassPolicy
from engine.image.head import ImageHead, parse_head
from engine.image.header import HEADER_SIZE, parse_header
from engine.image.manifest import MANIFEST_SIZE_MAX, Manifest, parse_manifest
from engine.store.places import manifest_of
from engine.units import MiB, round_up

#: Bytes read at the front of an image; nearly every head ends within.
_FIRST_READ: Final = 1 * MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenImage:
    """A complete save image that is open for reading."""

    file: DirectFile
    head: ImageHead
    #: The first bytes of the file, the whole head at least.
    first_bytes: bytes
    #: Length of the file in bytes.
    size: int
    #: None where nobody wrote one, as beside images that virsh made.
    manifest: Manifest | None


def open_image(path: Path, policy: BypassPolicy) -> OpenImage:
    """Open a save image and look at everything but its memory.

    Raises:
        ImageFormatError, ImageIncompleteError: it is none, or not whole.
        StorageError, BypassError: it cannot be read, or not so.
    """
    file = open_direct(path, os.O_RDONLY, policy)
    try:
        size = os.fstat(file.fd).st_size
        file.forget_cached()
        head, first_bytes = read_head(file)
        manifest = read_manifest(manifest_of(path))
        _check_size(path, size, head, manifest)
    except BaseException:
        file.close()
        raise
    return OpenImage(file=file, head=head, first_bytes=first_bytes, size=size, manifest=manifest)


def _check_size(path: Path, size: int, head: ImageHead, manifest: Manifest | None) -> None:
    """Refuse an image that is not as long as it must be."""
    if manifest is not None and manifest.image_bytes != size:
        raise ImageIncompleteError(
            str(path),
            f"{size} bytes long",
            f"{manifest.image_bytes} as its manifest says",
            "the file was cut short or grew: restore another restore point",
        )
    if size <= head.header.stream_offset:
        raise ImageIncompleteError(str(path), "the image ends before the guest's memory begins", "all of it")


def read_head(file: DirectFile, *, accept_partial: bool = False) -> tuple[ImageHead, bytes]:
    """Return the parsed head of an open image, and the bytes it was parsed from (some more than that).

    Raises:
        ImageFormatError, ImageIncompleteError: it is none, or not whole.
    """
    data = _read_front(file, _FIRST_READ)
    header = parse_header(data[:HEADER_SIZE], path=str(file.path), accept_partial=accept_partial)
    if header.stream_offset > len(data):
        data = _read_front(file, round_up(header.stream_offset, file.block_size))
    return parse_head(data, path=str(file.path), accept_partial=accept_partial), data


def _read_front(file: DirectFile, size: int) -> bytes:
    buffer = BufferRing(count=1, size=size).take()
    assert buffer is not None
    return bytes(buffer[: file.read_at(buffer, 0)])


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest at path, None where there is none.

    Raises:
        ImageFormatError: a file is there that is no manifest.
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_SIZE_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(str(path), f"{error.strerror}", "a readable manifest") from error
    if len(data) > MANIFEST_SIZE_MAX:
        raise ImageFormatError(str(path), "too large for a manifest", f"at most {MANIFEST_SIZE_MAX} bytes")
    return parse_manifest(data.decode(errors="replace"), path=str(path))
