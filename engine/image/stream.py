"""Know a memory stream by how it begins.

Source: QEMU migration/qemu-file-types.h, QEMU_VM_FILE_MAGIC "QEVM"; the magic numbers of
gzip (RFC 1952), bzip2, xz, lzop and zstd (RFC 8878) files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.errors import ImageFormatError
from engine.image.header import ImageFormat

_BEGINNINGS: Final[Mapping[ImageFormat, bytes]] = {
    ImageFormat.RAW: b"QEVM",
    ImageFormat.GZIP: b"\x1f\x8b",
    ImageFormat.BZIP2: b"BZh",
    ImageFormat.XZ: b"\xfd7zXZ\0",
    ImageFormat.LZOP: b"\x89LZO\0\r\n\x1a\n",
    ImageFormat.ZSTD: b"\x28\xb5\x2f\xfd",
    ImageFormat.SPARSE: b"QEVM",
}
#: Bytes of a stream that `check_beginning` wants to see.
BEGINNING_SIZE: Final = max(map(len, _BEGINNINGS.values()))


def check_beginning(stream: bytes, image_format: ImageFormat, *, path: str, offset: int) -> None:
    """Refuse a memory stream that does not begin as its format does.

    Args:
        stream: the first BEGINNING_SIZE bytes of the stream, fewer where it is shorter.
        image_format: what the header says.
        path: named in errors.
        offset: where in the file the stream begins, named in errors.

    Raises:
        ImageFormatError: it does not.
    """
    wanted = _BEGINNINGS[image_format]
    if not stream.startswith(wanted):
        raise ImageFormatError(
            path,
            f"memory at byte {offset} begins with {stream[: len(wanted)]!r}",
            f"{wanted!r}, as every {image_format.name.lower()} image has",
            "the image is damaged, or its header is: restore an earlier one",
        )
