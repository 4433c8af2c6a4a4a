"""Parse and pack the 92 bytes that every libvirt save image begins with.

Source: libvirt src/qemu/qemu_saveimage.h, struct _virQEMUSaveHeader (92 bytes, the
writer's byte order); enum values of qemu_saveimage_format.h.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, replace
from typing import Final, Literal

from engine.errors import ImageFormatError, ImageIncompleteError

MAGIC_DONE: Final = b"LibvirtQemudSave"
MAGIC_PARTIAL: Final = b"LibvirtQemudPart"
VERSION_MAX: Final = 2
HEADER_SIZE: Final = 92  # bytes: 16 magic + 5 * 4 fields + 14 * 4 unused
_BODY: Final = "5I56s"
assert struct.calcsize(f"=16s{_BODY}") == HEADER_SIZE

#: libvirt checks no maximum; a domain XML of more than this is an attack or damage.
DATA_SIZE_MAX: Final = 16 * 1024 * 1024


class ImageFormat(enum.IntEnum):
    """How the memory stream is stored."""

    RAW = 0
    GZIP = 1
    BZIP2 = 2
    XZ = 3
    LZOP = 4
    #: Known to libvirt since 10.4.
    ZSTD = 5
    #: QEMU's mapped-ram; known to libvirt since 11.2.
    SPARSE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The fixed head of a save image."""

    #: False for an image whose save has not finished ("Part").
    is_complete: bool
    version: int
    #: Bytes between the header and the memory stream: XML, cookie, padding.
    data_size: int
    #: The guest's CPUs ran when it was saved; they run again after a restore.
    was_running: bool
    format: ImageFormat
    #: Where the cookie begins inside the data; 0 = there is none.
    cookie_offset: int
    byte_order: Literal["<", ">"] = "<"
    #: Fields libvirt has not given a meaning yet; carried along.
    unused: bytes = bytes(56)

    @property
    def stream_offset(self) -> int:
        """Where in the file the memory stream begins, bytes."""
        return HEADER_SIZE + self.data_size

    def pack(self) -> bytes:
        """Return the 92 bytes, in the byte order they were read in."""
        magic = MAGIC_DONE if self.is_complete else MAGIC_PARTIAL
        return magic + struct.pack(
            f"{self.byte_order}{_BODY}",
            self.version,
            self.data_size,
            int(self.was_running),
            int(self.format),
            self.cookie_offset,
            self.unused,
        )

    def finished(self, *, was_running: bool | None = None) -> Header:
        """Return the header of the same image once complete, for a guest that runs or is paused."""
        running = self.was_running if was_running is None else was_running
        return replace(self, is_complete=True, was_running=running)


def parse_header(data: bytes, *, path: str, accept_partial: bool = False) -> Header:
    """Return the header that data begins with.

    Args:
        data: at least the first 92 bytes of the image.
        path: named in errors.
        accept_partial: take an image that is still being written.

    Raises:
        ImageFormatError: another magic, a version, format, length or offset that cannot be.
        ImageIncompleteError: the save that wrote it never finished, or the file ends inside the header.

    Source: libvirt src/qemu/qemu_saveimage.c, qemuSaveImageReadHeader(); the caps on
    lengths are ours, libvirt has none.
    """
    magic = data[:16]
    if len(data) < HEADER_SIZE:
        kind = ImageIncompleteError if magic in {MAGIC_DONE, MAGIC_PARTIAL} else ImageFormatError
        raise kind(path, f"{len(data)} bytes long", f"a save image, at least {HEADER_SIZE} bytes")
    if magic == MAGIC_PARTIAL and not accept_partial:
        raise ImageIncompleteError(
            path,
            "save image is incomplete: its save never finished",
            f"magic {MAGIC_DONE.decode()}",
            "restore an earlier image",
        )
    if magic not in {MAGIC_DONE, MAGIC_PARTIAL}:
        raise ImageFormatError(
            path,
            f"image magic is incorrect: {magic!r}",
            MAGIC_DONE.decode(),
            "this is no save image of a QEMU domain",
        )
    # The writer used its own byte order: an absurd version means the other one.
    order: Literal["<", ">"] = "<" if struct.unpack_from("<I", data, 16)[0] <= VERSION_MAX else ">"
    version, data_size, was_running, code, cookie_offset, unused = struct.unpack_from(
        f"{order}{_BODY}", data, 16
    )
    if not 0 < version <= VERSION_MAX:
        raise ImageFormatError(path, f"version at byte 16 is {version}", f"1 to {VERSION_MAX}")
    if not 0 < data_size <= DATA_SIZE_MAX:
        raise ImageFormatError(path, f"data_len at byte 20 is {data_size}", f"1 to {DATA_SIZE_MAX}")
    if code not in ImageFormat._value2member_map_:
        raise ImageFormatError(path, f"format at byte 28 is {code}", f"0 to {max(ImageFormat)}")
    if cookie_offset >= data_size:
        raise ImageFormatError(path, f"cookieOffset at byte 32 is {cookie_offset}", f"below {data_size}")
    return Header(
        is_complete=magic == MAGIC_DONE,
        version=version,
        data_size=data_size,
        was_running=bool(was_running),
        format=ImageFormat(code),
        cookie_offset=cookie_offset,
        byte_order=order,
        unused=unused,
    )
