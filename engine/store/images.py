"""Open images for reading: head, manifest and length, past the page cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.checksum import PART_SIZE
from engine.directio.buffers import BufferRing
from engine.directio.checksum import StreamChecksum
from engine.directio.target import DirectFile, open_direct
from engine.errors import ImageFormatError, ImageIncompleteError, StorageError, TryAgainError
from engine.flags import BypassPolicy
from engine.image.head import ImageHead, parse_head
from engine.image.header import HEADER_SIZE, parse_header
from engine.image.manifest import MANIFEST_SIZE_MAX, Manifest, parse_manifest
from engine.store.places import manifest_of, next_manifest_of
from engine.units import MiB, round_up

#: Bytes read at the front of an image; nearly every head ends within.
_FIRST_READ: Final = 1 * MiB
_OPEN_ATTEMPTS: Final = 5


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
        TryAgainError: somebody replaces it all the time.
    """
    file, size, manifest = open_with_manifest(path, policy)
    try:
        head, first_bytes = read_head(file)
        check_size(path, size, manifest)
        check_has_memory(path, size, head)
    except BaseException:
        file.close()
        raise
    return OpenImage(file=file, head=head, first_bytes=first_bytes, size=size, manifest=manifest)


def open_with_manifest(path: Path, policy: BypassPolicy) -> tuple[DirectFile, int, Manifest | None]:
    """Open a file that should be an image; return it, its length in bytes, and the manifest it belongs to.

    Raises:
        ImageFormatError: what lies beside it is no manifest.
        StorageError, BypassError: it cannot be read, or not so.
        TryAgainError: somebody replaces it all the time.
    """
    for _ in range(_OPEN_ATTEMPTS):
        file = open_direct(path, os.O_RDONLY, policy)
        try:
            size = os.fstat(file.fd).st_size
            file.forget_cached()
            manifest = find_manifest(file, size)
            # If it was replaced, that may be the manifest of the image which has the name by now.
            if not is_replaced(file):
                return file, size, manifest
        except BaseException:
            file.close()
            raise
        file.close()
    raise TryAgainError(str(path), "replaced while it was opened, again and again", "", "try again")


def check_size(path: Path, size: int, manifest: Manifest | None) -> None:
    """Refuse an image that is not as long as its manifest says.

    Raises:
        ImageIncompleteError: it is not.
    """
    if manifest is not None and manifest.image_bytes != size:
        raise ImageIncompleteError(
            str(path),
            f"{size} bytes long",
            f"{manifest.image_bytes} as its manifest says",
            "the file was cut short or grew: restore another restore point",
        )


def check_has_memory(path: Path, size: int, head: ImageHead) -> None:
    """Refuse an image that is nothing but its head.

    Raises:
        ImageIncompleteError: it is.
    """
    if size <= head.header.stream_offset:
        raise ImageIncompleteError(str(path), "the image ends before the guest's memory begins", "all of it")


def is_replaced(file: DirectFile) -> bool:
    """Tell whether the open file's name belongs to another file by now."""
    try:
        there = file.path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return not os.path.samestat(there, os.fstat(file.fd))


def find_manifest(file: DirectFile, size: int) -> Manifest | None:
    """Return the manifest that belongs to an open image, None where nobody wrote one.

    While `image define` replaces an image, the next one's manifest lies beside the present
    one's: whichever fits the first part belongs to the image (docs/decisions/0007).

    Raises:
        ImageFormatError: a file is there that is no manifest.
        StorageError: manifest or image cannot be read.
    """
    # First the next one: it takes the other's place at the very end.
    following = read_next_manifest(file.path)
    present = read_manifest(manifest_of(file.path))
    if following is None or following.image_bytes != size:
        return present
    return following if following.checksum.parts[:1] == (_first_part(file, size),) else present


def read_next_manifest(image: Path) -> Manifest | None:
    """Return the manifest of the image that is to follow, None where there is none of use."""
    try:
        return read_manifest(next_manifest_of(image))
    except (ImageFormatError, StorageError):
        return None


def _first_part(file: DirectFile, size: int) -> str:
    """Return the checksum of the image's first part."""
    buffer = BufferRing(count=1).take()
    assert buffer is not None
    checksum, done = StreamChecksum(), 0
    while done < min(size, PART_SIZE):
        count = file.read_at(buffer, done)
        if count == 0:
            break
        checksum.update(buffer[: min(count, PART_SIZE - done)])
        done += count
    return "".join(checksum.finish().parts[:1])


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
