from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ImageFormatError
from engine.image.qcow2 import (
    MAGIC,
    Bitmap,
    BitmapsExtension,
    Qcow2Header,
    parse_bitmap_directory,
    parse_qcow2,
)
from tests.data.qcow2_files import make_directory, make_qcow2

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
HEADERS = st.builds(
    Qcow2Header,
    version=st.just(3),
    virtual_size=st.integers(0, 2**63 - 1),
    cluster_bits=st.integers(12, 21),
    l1_size=st.integers(0, 2**22),
    l1_offset=st.integers(0, 2**63),
    snapshots=st.integers(0, 65536),
    incompatible_features=st.integers(0, 2**64 - 1),
    compatible_features=st.integers(0, 2**64 - 1),
    autoclear_features=st.integers(0, 2**64 - 1),
    backing_file=st.none() | NAMES,
    data_file=st.none() | NAMES,
    bitmaps=st.none()
    | st.builds(
        BitmapsExtension,
        count=st.integers(1, 65535),
        directory_size=st.integers(0, 2**64 - 1),
        directory_offset=st.integers(0, 2**64 - 1),
    ),
)


@given(HEADERS)
def test_header_holds_what_was_written(header: Qcow2Header) -> None:
    """Every field comes back, whatever its value and whichever extensions there are."""
    assert parse_qcow2(make_qcow2(header), path="a.qcow2") == header


@given(st.binary(max_size=400))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    """Whatever the bytes, the answer is a header or an error about the disk."""
    for tried in (data, MAGIC + data, MAGIC + struct.pack(">I", 3) + data):
        with suppress(ImageFormatError):
            parse_qcow2(tried, path="a.qcow2")


@given(HEADERS, st.data())
def test_header_cut_anywhere_is_refused_or_the_same(header: Qcow2Header, data: st.DataObject) -> None:
    """No field is made up from bytes that are not there."""
    whole = make_qcow2(header).rstrip(b"\0")
    with suppress(ImageFormatError):
        cut = parse_qcow2(whole[: data.draw(st.integers(0, len(whole)))], path="a.qcow2")
        assert (cut.virtual_size, cut.l1_offset, cut.snapshots) == (
            header.virtual_size,
            header.l1_offset,
            header.snapshots,
        )


def test_version_2_has_no_features() -> None:
    """Disks of old QEMUs are read, too."""
    data = struct.pack(">4sIQIIQIIQQIIQ", MAGIC, 2, 0, 0, 16, 4096, 0, 1, 196608, 65536, 1, 3, 0)

    header = parse_qcow2(data.ljust(65536, b"\0"), path="a.qcow2")

    assert (header.version, header.virtual_size, header.snapshots) == (2, 4096, 3)
    assert header.incompatible_features == header.autoclear_features == 0


@pytest.mark.parametrize(
    ("offset", "size", "value", "field"),
    [
        (4, 4, 4, "version"),
        (4, 4, 1, "version"),
        (20, 4, 8, "cluster_bits"),
        (20, 4, 22, "cluster_bits"),
        (24, 8, 2**63, "size"),
        (36, 4, 2**22 + 1, "l1_size"),
        (60, 4, 65537, "nb_snapshots"),
        (8, 8, 2**64 - 1, "backing_file_offset"),
        (16, 4, 1024, "backing_file_size"),
        (100, 4, 103, "header_length"),
        (100, 4, 2**32 - 1, "header_length"),
        (116, 4, 2**32 - 1, "header extension"),
        (116, 4, 23, "bitmaps extension"),
        (120, 4, 0, "bitmaps"),
        (120, 4, 65536, "bitmaps"),
    ],
)
def test_field_that_lies_is_named(offset: int, size: int, value: int, field: str) -> None:
    """A value that QEMU itself would refuse is an error with its name."""
    bitmaps = BitmapsExtension(count=1, directory_size=32, directory_offset=65536)
    data = make_qcow2(simple_header(backing_file="base", bitmaps=bitmaps))
    data = data[:offset] + value.to_bytes(size, "big") + data[offset + size :]

    with pytest.raises(ImageFormatError, match=field):
        parse_qcow2(data, path="a.qcow2")


def test_other_formats_are_refused_by_their_magic() -> None:
    """Raw disks, and qcow of version 1's time."""
    for data in (b"", bytes(512), b"QFI", b"KDMV" + bytes(600)):
        with pytest.raises(ImageFormatError, match="magic at byte 0"):
            parse_qcow2(data, path="a.qcow2")


def test_name_of_any_bytes_can_be_printed() -> None:
    """It goes into JSON and sentences."""
    data = make_qcow2(simple_header(backing_file="base"))

    header = parse_qcow2(data.replace(b"base", b"b\xffse"), path="a.qcow2")

    assert header.backing_file == r"b\xffse"


BITMAPS = st.lists(
    st.builds(Bitmap, name=NAMES, granularity_bits=st.integers(0, 255), flags=st.integers(0, 2**32 - 1)),
    max_size=5,
)


@given(BITMAPS, st.integers(0, 20))
def test_directory_lists_what_was_written(bitmaps: list[Bitmap], extra_size: int) -> None:
    """Names, granularities and flags, whatever extra data lies between."""
    data = make_directory(bitmaps, extra_size=extra_size)

    assert parse_bitmap_directory(data, len(bitmaps), path="a.qcow2") == tuple(bitmaps)


@given(st.binary(max_size=200), st.integers(0, 65535))
def test_any_directory_parses_or_is_refused(data: bytes, count: int) -> None:
    """A count that lies costs nothing."""
    with suppress(ImageFormatError):
        assert len(parse_bitmap_directory(data, count, path="a.qcow2")) == count


def simple_header(*, backing_file: str | None = None, bitmaps: BitmapsExtension | None = None) -> Qcow2Header:
    """Return a header as qemu-img makes it."""
    return Qcow2Header(
        version=3,
        virtual_size=16 * 1024 * 1024,
        cluster_bits=16,
        l1_size=1,
        l1_offset=196608,
        snapshots=0,
        incompatible_features=0,
        compatible_features=0,
        autoclear_features=1,
        backing_file=backing_file,
        data_file=None,
        bitmaps=bitmaps,
    )
