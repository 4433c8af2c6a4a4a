"""A new front for an old image: everything that is not to change stays to the byte."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ImageFormatError, ImageIncompleteError, NotSupportedError
from engine.image.edit import PADDING_SIZE, STREAM_SHIFT, edit_head, padding_of
from engine.image.head import ImageHead, parse_head
from engine.image.header import DATA_SIZE_MAX, HEADER_SIZE, ImageFormat
from tests.data.libvirt_peer import make_image

XML = "<domain><name>web-1</name></domain>"
#: Text as XML may hold it, names in any script included.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)


def head_of(xml: str = XML, *, image_format: ImageFormat = ImageFormat.RAW, **fields: object) -> ImageHead:
    """Return the head that libvirt writes for the XML."""
    head = parse_head(make_image(xml, b"QEVM", **fields), path="a.save")  # type: ignore[arg-type]
    return replace(head, header=replace(head.header, format=image_format))


@given(old=texts, new=texts, cookie=texts, order=st.sampled_from("<>"), was_running=st.booleans())
def test_what_was_edited_reads_as_it_was_told(
    old: str, new: str, cookie: str, order: str, was_running: bool
) -> None:
    """XML and state are the new ones; byte order, cookie, version, format and length stay."""
    head = head_of(old, cookie=cookie, byte_order=order)

    edited = edit_head(head, path="a.save", domain_xml=new, was_running=was_running)

    found = parse_head(edited.data, path="a.save")
    assert (found.domain_xml, found.header.was_running, found.cookie) == (new, was_running, cookie)
    assert (found.header.byte_order, found.header.version) == (order, 2)
    assert edited.shift == 0
    assert len(edited.data) == head.header.stream_offset


def test_nothing_to_edit_gives_the_same_bytes() -> None:
    """A head that libvirt wrote is written by us to the byte."""
    image = make_image(XML, b"QEVM")

    assert edit_head(parse_head(image, path=""), path="").data + b"QEVM" == image


@pytest.mark.parametrize("image_format", ImageFormat)
def test_xml_that_fills_the_padding_does_not_move_the_memory(image_format: ImageFormat) -> None:
    """The last byte of the room is used; padding_of says how much there is."""
    head = head_of(image_format=image_format)
    xml = XML + " " * padding_of(head)

    edited = edit_head(head, path="a.save", domain_xml=xml)

    assert edited.shift == 0
    assert padding_of(edited.head) == 0


def test_larger_xml_moves_the_memory_and_leaves_room() -> None:
    """One byte too many: the memory moves by whole multiples, and libvirt's room is there again."""
    head = head_of()

    edited = edit_head(head, path="a.save", domain_xml=XML + " " * (padding_of(head) + 1))

    assert edited.shift > 0
    assert edited.shift % STREAM_SHIFT == 0
    assert PADDING_SIZE <= padding_of(edited.head) < PADDING_SIZE + STREAM_SHIFT
    assert len(edited.data) == HEADER_SIZE + head.header.data_size + edited.shift


def test_memory_of_a_sparse_image_stays_where_it_is() -> None:
    """It holds absolute offsets: an XML that does not fit is refused in libvirt's words."""
    head = head_of(image_format=ImageFormat.SPARSE)

    with pytest.raises(NotSupportedError, match="new xml too large to fit in file") as caught:
        edit_head(head, path="a.save", domain_xml=XML + " " * (padding_of(head) + 1))

    assert (caught.value.exit_code, caught.value.libvirt_code) == (34, 9)


def test_front_that_nobody_would_read_is_not_written() -> None:
    """What would be larger than our own readers take is refused."""
    with pytest.raises(ImageFormatError, match="before the memory"):
        edit_head(head_of(), path="a.save", domain_xml="x" * DATA_SIZE_MAX)


def test_image_that_was_never_finished_is_not_finished_by_an_edit() -> None:
    """An edit writes the mark it read; a reader refuses it as before."""
    head = head_of()
    partial = replace(head, header=replace(head.header, is_complete=False))

    with pytest.raises(ImageIncompleteError):
        edit_head(partial, path="a.save", was_running=False)


def test_image_without_cookie_gets_none() -> None:
    """Offset 0 says that there is no cookie, before and after."""
    edited = edit_head(head_of(cookie=""), path="a.save", domain_xml=XML + " ")

    assert edited.head.header.cookie_offset == 0
    assert edited.head.cookie == ""


def test_unknown_fields_are_carried_along() -> None:
    """What a later libvirt may keep in the unused fields is not lost."""
    head = head_of()
    later = replace(head, header=replace(head.header, unused=bytes(range(56))))

    assert edit_head(later, path="a.save", was_running=False).data[36:HEADER_SIZE] == bytes(range(56))
