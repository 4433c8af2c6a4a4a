from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, ImageFormatError, ImageIncompleteError
from engine.image.head import parse_head
from engine.image.header import HEADER_SIZE
from tests.data.libvirt_peer import make_image

XML = "<domain type='qemu'><name>wéb</name></domain>"
COOKIE = "<cookie><cpu/></cookie>"
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)


def head_of(blob: bytes, cookie_offset: int = 0, data_size: int | None = None) -> bytes:
    """Return a head around a blob."""
    size = len(blob) if data_size is None else data_size
    return b"LibvirtQemudSave" + struct.pack("<5I56x", 2, size, 1, 0, cookie_offset) + blob


@given(TEXTS, st.one_of(st.just(""), TEXTS), st.sampled_from(["<", ">"]))
def test_head_holds_what_libvirt_wrote(xml: str, cookie: str, order: str) -> None:
    """XML and cookie come back, whatever their characters and the byte order."""
    image = make_image(xml, b"memory", cookie=cookie, byte_order=order)

    head = parse_head(image, path="a.save")

    assert (head.domain_xml, head.cookie) == (xml, cookie)
    assert image[head.header.stream_offset :] == b"memory"


@given(st.integers(0, len(make_image(XML, b"", cookie=COOKIE)) - 1))
def test_head_cut_anywhere_is_refused(size: int) -> None:
    """A file that ends inside its head is told so, wherever it ends."""
    with pytest.raises((ImageIncompleteError, ImageFormatError)) as caught:
        parse_head(make_image(XML, b"", cookie=COOKIE)[:size], path="a.save")

    if size >= HEADER_SIZE:
        assert isinstance(caught.value, ImageIncompleteError)
        assert f"ends at byte {size}" in str(caught.value)


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_any_head_parses_or_is_refused(blob: bytes, cookie_offset: int, data_size: int) -> None:
    """Whatever the bytes, the answer is a head or an error about the image."""
    for size in (None, data_size):
        with suppress(ImageFormatError, ImageIncompleteError):
            parse_head(head_of(blob, cookie_offset, size), path="a.save")


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        pytest.param(head_of(b"x" * 50), ImageFormatError, "domain XML at byte 92 has no end", id="no-NUL"),
        pytest.param(
            head_of(b"xml\0" + b"c" * 50, 4),
            ImageFormatError,
            "cookie at byte 96 has no end",
            id="cookie-no-NUL",
        ),
        pytest.param(
            head_of(b"\xff\xfe\0"), ImageFormatError, "domain XML at byte 92 is no UTF-8", id="not-UTF-8"
        ),
        pytest.param(
            head_of(b"xml\0\xff\0", 4),
            ImageFormatError,
            "cookie at byte 96 is no UTF-8",
            id="cookie-not-UTF-8",
        ),
        pytest.param(
            head_of(b"xmlxml\0c\0", 3),
            ImageFormatError,
            "cookieOffset at byte 32 is 3",
            id="cookie-inside-XML",
        ),
        pytest.param(
            head_of(b"xml\0", 4),
            ImageFormatError,
            "cookieOffset at byte 32 is 4, want below 4",
            id="cookie-beyond",
        ),
        pytest.param(
            head_of(b"xml\0", 0, 0xFFFFFFFF),
            ImageFormatError,
            "data_len at byte 20 is 4294967295",
            id="4-GiB",
        ),
        pytest.param(
            head_of(b"xml\0", 0, 1 << 20), ImageIncompleteError, "ends at byte 96, inside its head", id="cut"
        ),
        pytest.param(
            b"LibvirtQemudPart" + head_of(b"xml\0")[16:],
            ImageIncompleteError,
            "never finished",
            id="unfinished",
        ),
    ],
)
def test_hostile_head_is_refused(data: bytes, error: type[EngineError], sentence: str) -> None:
    """Each lie of a head has its own sentence."""
    with pytest.raises(error) as caught:
        parse_head(data, path="a.save")

    assert sentence in str(caught.value)
    assert type(caught.value) is error


def test_unfinished_head_is_taken_on_request() -> None:
    """An image that is being written has a head all the same."""
    data = b"LibvirtQemudPart" + make_image(XML, b"")[16:]

    assert parse_head(data, path="a.save", accept_partial=True).domain_xml == XML
