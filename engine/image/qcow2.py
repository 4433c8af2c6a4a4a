"""Parse the head of a qcow2 disk: what it is, and what changes in it when it is written.

Source: QEMU docs/interop/qcow2.txt (versions 2 and 3); limits of block/qcow2.h and
block/qcow2-bitmap.c. All numbers are big endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.errors import ImageFormatError

MAGIC: Final = b"QFI\xfb"
#: Bytes to read at the front of a disk: every head seen in the field ends within its first KiB.
HEAD_SIZE: Final = 64 * 1024
#: Bytes of a bitmap directory that is looked at; a hundred bitmaps take some 5 KiB.
DIRECTORY_SIZE_MAX: Final = 64 * 1024

#: The first and the last version; only the last has feature bits.
_FIRST: Final = 2
_LAST: Final = 3
_FIXED: Final = ">4sIQIIQIIQQIIQ"
_FIXED_SIZE: Final = struct.calcsize(_FIXED)
assert _FIXED_SIZE == 72  # noqa: PLR2004 - bytes of a version 2 header
_FEATURES: Final = ">QQQII"
_HEADER_SIZE_V3: Final = 104
_CLUSTER_BITS: Final = range(9, 22)
#: Most bytes of an L1 table (QCOW_MAX_L1_SIZE), by the 8 of an entry.
_L1_SIZE_MAX: Final = 32 * 1024 * 1024 // 8
_SNAPSHOTS_MAX: Final = 65536
_NAME_SIZE_MAX: Final = 1023
_BITMAPS_MAX: Final = 65535
_VIRTUAL_SIZE_MAX: Final = 2**63 - 1

_END: Final = 0
_BITMAPS: Final = 0x23852875
_DATA_FILE: Final = 0x44415441
_BITMAPS_FIXED: Final = ">IIQQ"
_ENTRY: Final = ">QIIBBHI"
_ENTRY_SIZE: Final = struct.calcsize(_ENTRY)
assert _ENTRY_SIZE == 24  # noqa: PLR2004 - bytes of a directory entry before its extra data and name


@dataclass(frozen=True, slots=True, kw_only=True)
class BitmapsExtension:
    """Where the persistent bitmaps of a disk are listed."""

    count: int
    #: Bytes, of the list.
    directory_size: int
    #: Where in the file the list begins, bytes; another place after each change of a bitmap.
    directory_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitmap:
    """One persistent bitmap."""

    name: str
    #: Bytes of the disk for each bit, as a power of two.
    granularity_bits: int
    #: 1: not saved when the disk was last written; 2: goes on recording.
    flags: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Header:
    """A qcow2 disk, as far as its head says."""

    version: int
    #: Bytes that the guest sees.
    virtual_size: int
    cluster_bits: int
    l1_size: int
    #: Where in the file the L1 table begins, bytes; another place once it has grown.
    l1_offset: int
    #: How many internal snapshots there are.
    snapshots: int
    incompatible_features: int
    compatible_features: int
    autoclear_features: int
    #: As it stands in the file: absolute, or relative to the file's directory; None = no backing file.
    backing_file: str | None
    #: Where the guest's data is when it is not in this file; absolute or relative, None = in this file.
    data_file: str | None
    #: None = the disk has no persistent bitmaps.
    bitmaps: BitmapsExtension | None


def parse_qcow2(data: bytes, *, path: str) -> Qcow2Header:
    """Return the header that the data begins with.

    Args:
        data: the first bytes of the disk, HEAD_SIZE unless the file is shorter.
        path: named in errors.

    Raises:
        ImageFormatError: no qcow2, or a field that cannot be.
    """
    if data[:4] != MAGIC:
        raise ImageFormatError(path, f"magic at byte 0 is {data[:4]!r}", repr(MAGIC))
    if len(data) < _FIXED_SIZE:
        raise ImageFormatError(path, f"{len(data)} bytes long", f"at least {_FIXED_SIZE} bytes of qcow2")
    fixed = struct.unpack_from(_FIXED, data)
    _, version, backing_offset, backing_size, cluster_bits, virtual_size, _, l1_size, l1_offset = fixed[:9]
    _check(path, "version", 4, version, range(_FIRST, _LAST + 1))
    _check(path, "cluster_bits", 20, cluster_bits, _CLUSTER_BITS)
    _check(path, "size", 24, virtual_size, range(_VIRTUAL_SIZE_MAX + 1))
    _check(path, "l1_size", 36, l1_size, range(_L1_SIZE_MAX + 1))
    _check(path, "nb_snapshots", 60, fixed[11], range(_SNAPSHOTS_MAX + 1))
    limit = min(len(data), 1 << cluster_bits)
    *features, header_size = (
        (0, 0, 0, _FIXED_SIZE) if version == _FIRST else _parse_features(data, limit, path)
    )
    backing_file = None
    if backing_offset:
        _check(path, "backing_file_size", 16, backing_size, range(_NAME_SIZE_MAX + 1))
        _check(path, "backing_file_offset", 8, backing_offset, range(header_size, limit - backing_size + 1))
        backing_file = _text(data[backing_offset : backing_offset + backing_size])
        limit = min(limit, backing_offset)
    found = dict(_extensions(data, header_size, limit, path))
    return Qcow2Header(
        version=version,
        virtual_size=virtual_size,
        cluster_bits=cluster_bits,
        l1_size=l1_size,
        l1_offset=l1_offset,
        snapshots=fixed[11],
        incompatible_features=features[0],
        compatible_features=features[1],
        autoclear_features=features[2],
        backing_file=backing_file,
        data_file=_text(found[_DATA_FILE]) if _DATA_FILE in found else None,
        bitmaps=_parse_bitmaps(found[_BITMAPS], path) if _BITMAPS in found else None,
    )


def parse_bitmap_directory(data: bytes, count: int, *, path: str) -> tuple[Bitmap, ...]:
    """Return the bitmaps that a directory lists.

    Args:
        data: the directory, whole.
        count: how many the header speaks of.
        path: named in errors.

    Raises:
        ImageFormatError: it ends too early.
    """
    found, at = [], 0
    for number in range(count):
        if at + _ENTRY_SIZE > len(data):
            raise ImageFormatError(path, f"bitmap directory ends at entry {number}", f"{count} entries")
        _, _, flags, _, granularity_bits, name_size, extra_size = struct.unpack_from(_ENTRY, data, at)
        name_at = at + _ENTRY_SIZE + extra_size
        end = name_at + name_size
        if end > len(data):
            raise ImageFormatError(path, f"bitmap {number} ends at byte {end}", f"at most {len(data)}")
        name = _text(data[name_at:end])
        found.append(Bitmap(name=name, granularity_bits=granularity_bits, flags=flags))
        at = end + -end % 8
    return tuple(found)


def _parse_features(data: bytes, limit: int, path: str) -> tuple[int, int, int, int]:
    """Return incompatible, compatible and autoclear features, and the header's length in bytes."""
    if len(data) < _HEADER_SIZE_V3:
        raise ImageFormatError(path, f"{len(data)} bytes long", f"at least {_HEADER_SIZE_V3} of qcow2")
    incompatible, compatible, autoclear, _, size = struct.unpack_from(_FEATURES, data, _FIXED_SIZE)
    _check(path, "header_length", 100, size, range(_HEADER_SIZE_V3, limit + 1))
    return incompatible, compatible, autoclear, size


def _extensions(data: bytes, at: int, limit: int, path: str) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each header extension; the last may be missing its end mark."""
    while at + 8 <= limit:
        kind, size = struct.unpack_from(">II", data, at)
        if kind == _END:
            return
        if at + 8 + size > limit:
            raise ImageFormatError(
                path, f"header extension {kind:#x} at byte {at} is {size} bytes long", f"an end below {limit}"
            )
        yield kind, data[at + 8 : at + 8 + size]
        at += 8 + size + -size % 8


def _parse_bitmaps(content: bytes, path: str) -> BitmapsExtension:
    if len(content) != struct.calcsize(_BITMAPS_FIXED):
        raise ImageFormatError(path, f"bitmaps extension of {len(content)} bytes", "24")
    count, _, size, offset = struct.unpack(_BITMAPS_FIXED, content)
    if not 1 <= count <= _BITMAPS_MAX:
        raise ImageFormatError(path, f"{count} bitmaps", f"1 to {_BITMAPS_MAX}")
    return BitmapsExtension(count=count, directory_size=size, directory_offset=offset)


def _check(path: str, name: str, offset: int, value: int, wanted: range) -> None:
    if value not in wanted:
        raise ImageFormatError(
            path, f"{name} at byte {offset} is {value}", f"{wanted.start} to {wanted.stop - 1}"
        )


def _text(data: bytes) -> str:
    """Return a name as text that can be printed and kept in JSON, whatever its bytes."""
    return data.decode(errors="backslashreplace")
