"""Pack heads of qcow2 disks, as QEMU writes them.

Source: QEMU docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from engine.image.qcow2 import MAGIC, Bitmap, Qcow2Header

_HEADER_SIZE: Final = 112
_BITMAPS: Final = 0x23852875
_DATA_FILE: Final = 0x44415441


def make_qcow2(header: Qcow2Header) -> bytes:
    """Return the first cluster of a version 3 disk."""
    extensions = b""
    if header.bitmaps is not None:
        listed = header.bitmaps
        extensions += _extension(
            _BITMAPS, struct.pack(">IIQQ", listed.count, 0, listed.directory_size, listed.directory_offset)
        )
    if header.data_file is not None:
        extensions += _extension(_DATA_FILE, header.data_file.encode())
    backing = (header.backing_file or "").encode()
    backing_offset = _HEADER_SIZE + len(extensions) + 8 if backing else 0
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQQQQIIB7x",
        MAGIC,
        header.version,
        backing_offset,
        len(backing),
        header.cluster_bits,
        header.virtual_size,
        0,
        header.l1_size,
        header.l1_offset,
        65536,
        1,
        header.snapshots,
        0,
        header.incompatible_features,
        header.compatible_features,
        header.autoclear_features,
        4,
        _HEADER_SIZE,
        0,
    )
    assert len(fixed) == _HEADER_SIZE
    return (fixed + extensions + bytes(8) + backing).ljust(1 << header.cluster_bits, b"\0")


def make_directory(bitmaps: Sequence[Bitmap], *, extra_size: int = 0) -> bytes:
    """Return a bitmap directory."""
    data = b""
    for bitmap in bitmaps:
        name = bitmap.name.encode()
        data += struct.pack(
            ">QIIBBHI", 131072, 1, bitmap.flags, 1, bitmap.granularity_bits, len(name), extra_size
        )
        data += b"\xee" * extra_size + name
        data += bytes(-len(data) % 8)
    return data


def _extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)
