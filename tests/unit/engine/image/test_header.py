from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, ImageFormatError, ImageIncompleteError
from engine.image.header import (
    DATA_SIZE_MAX,
    HEADER_SIZE,
    MAGIC_DONE,
    MAGIC_PARTIAL,
    Header,
    ImageFormat,
    parse_header,
)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Return any header that libvirt could write."""
    data_size = draw(st.integers(1, DATA_SIZE_MAX))
    return Header(
        is_complete=draw(st.booleans()),
        version=draw(st.sampled_from([1, 2])),
        data_size=data_size,
        was_running=draw(st.booleans()),
        format=draw(st.sampled_from(ImageFormat)),
        cookie_offset=draw(st.integers(0, data_size - 1)),
        byte_order=draw(st.sampled_from(["<", ">"])),
        unused=draw(st.binary(min_size=56, max_size=56)),
    )


@given(headers())
def test_header_survives_packing_in_both_byte_orders(header: Header) -> None:
    """What was packed is parsed again, unused fields and byte order included."""
    packed = header.pack()

    assert len(packed) == HEADER_SIZE
    assert parse_header(packed, path="a.save", accept_partial=True) == header


@given(headers(), st.binary(max_size=200))
def test_what_follows_the_header_does_not_matter(header: Header, rest: bytes) -> None:
    """Only the first 92 bytes count."""
    assert parse_header(header.pack() + rest, path="a.save", accept_partial=True) == header


@given(
    st.one_of(st.binary(max_size=200), st.builds(bytes.__add__, st.just(MAGIC_DONE), st.binary(max_size=99)))
)
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    """Whatever the bytes, the answer is a header that packs to them, or one of two errors in one line."""
    try:
        header = parse_header(data, path="a.save")
    except (ImageFormatError, ImageIncompleteError) as error:
        sentence = str(error)
    else:
        was_running = struct.pack(f"{header.byte_order}I", header.was_running)
        assert header.pack() == data[:24] + was_running + data[28:HEADER_SIZE]
        assert header.stream_offset == HEADER_SIZE + header.data_size
        sentence = "a.save: "
    assert sentence.startswith("a.save: ")
    assert "\n" not in sentence


def _fields(order: str = "<", **changes: int) -> bytes:
    values = {"version": 2, "data_len": 5000, "was_running": 1, "format": 0, "cookieOffset": 0} | changes
    return MAGIC_DONE + struct.pack(f"{order}5I56x", *values.values())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("field", "offset", "value", "wanted"),
    [
        ("version", 16, 0, "1 to 2"),
        ("version", 16, 3 << 24 | 3, "1 to 2"),
        ("data_len", 20, 0, f"1 to {DATA_SIZE_MAX}"),
        ("data_len", 20, 0xFFFFFFFF, f"1 to {DATA_SIZE_MAX}"),
        ("data_len", 20, DATA_SIZE_MAX + 1, f"1 to {DATA_SIZE_MAX}"),
        ("format", 28, 7, "0 to 6"),
        ("format", 28, 0xFFFFFFFF, "0 to 6"),
        ("cookieOffset", 32, 5000, "below 5000"),
        ("cookieOffset", 32, 0xFFFFFFFF, "below 5000"),
    ],
)
def test_refusal_names_field_offset_found_and_wanted(
    order: str, field: str, offset: int, value: int, wanted: str
) -> None:
    """The operator reads which field it is, where it stands, what it is and what it should be."""
    if field == "version" and order == ">" and value == 0:
        order = "<"  # The same four bytes.

    with pytest.raises(ImageFormatError) as caught:
        parse_header(_fields(order, **{field: value}), path="a.save")

    assert str(caught.value) == f"a.save: {field} at byte {offset} is {value}, want {wanted}"
    assert caught.value.exit_code == 10
    assert caught.value.libvirt_code == 9


@pytest.mark.parametrize(
    ("size", "error"),
    [(0, ImageFormatError), (1, ImageFormatError), (15, ImageFormatError), (16, ImageIncompleteError),
     (91, ImageIncompleteError)],
)  # fmt: skip
def test_too_few_bytes_are_counted(size: int, error: type[EngineError]) -> None:
    """A file shorter than a header is refused with its length: cut short if it began like an image."""
    with pytest.raises(error, match=rf"a.save: {size} bytes long, want .* at least 92 bytes"):
        parse_header(_fields()[:size], path="a.save")


@pytest.mark.parametrize(
    "magic", [b"TestGuestMagic\0\0", b"LibvirtQemudSavf", bytes(16), b"\x7fELF" + bytes(12)]
)
def test_foreign_magic_is_shown(magic: bytes) -> None:
    """A file of another kind is told by what it begins with."""
    with pytest.raises(ImageFormatError, match="image magic is incorrect") as caught:
        parse_header(magic + _fields()[16:], path="a.save")

    assert repr(magic) in str(caught.value)


def test_unfinished_image_is_an_error_of_its_own() -> None:
    """Part is not damage: the save never finished, and exit status and advice say so."""
    data = MAGIC_PARTIAL + _fields()[16:]

    with pytest.raises(ImageIncompleteError, match="incomplete") as caught:
        parse_header(data, path="a.save")

    assert caught.value.exit_code == 12
    assert not parse_header(data, path="a.save", accept_partial=True).is_complete


@given(headers(), st.booleans())
def test_finishing_changes_two_fields(header: Header, was_running: bool) -> None:
    """The finished header differs in its mark and in what the guest was, in nothing else."""
    finished = header.finished(was_running=was_running)

    assert finished.is_complete
    assert finished.was_running is was_running
    assert finished.pack()[16:24] + finished.pack()[28:] == header.pack()[16:24] + header.pack()[28:]
    assert header.finished().was_running is header.was_running


def test_layout_is_that_of_libvirt() -> None:
    """One header byte by byte, as an x86 host writes it."""
    header = Header(
        is_complete=True,
        version=2,
        data_size=0x12345,
        was_running=True,
        format=ImageFormat.ZSTD,
        cookie_offset=0x1234,
    )

    assert header.pack() == b"LibvirtQemudSave" + bytes.fromhex(
        "02000000 45230100 01000000 05000000 34120000" + "00" * 56
    )
    assert re.fullmatch(rb"LibvirtQemud(Save|Part)", MAGIC_PARTIAL)
