"""Plan the bytes before the memory stream anew, for another domain XML or another state.

Source: libvirt src/qemu/qemu_saveimage.c, virQEMUSaveDataWrite(): an edited image keeps its
data_len and with it the place of the stream. Ours may grow, except where the stream has to stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from engine.errors import ImageFormatError, NotSupportedError
from engine.image.head import ImageHead, parse_head
from engine.image.header import DATA_SIZE_MAX, ImageFormat
from engine.units import KiB, round_up

#: Bytes of zeros that libvirt leaves behind the cookie of a new image, for a longer XML.
PADDING_SIZE: Final = 64 * KiB
#: Bytes; the stream moves by multiples of this, so that its blocks can be shared instead of copied.
STREAM_SHIFT: Final = 64 * KiB
#: virErrorNumber OPERATION_FAILED, libvirt's answer to an XML that does not fit.
_OPERATION_FAILED: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedHead:
    """The new front of an image."""

    head: ImageHead
    #: Header, XML, cookie and padding; the stream begins right behind.
    data: bytes
    #: Bytes that the memory stream moves towards the end: 0, or a multiple of STREAM_SHIFT.
    shift: int


def padding_of(head: ImageHead) -> int:
    """Return by how many bytes the XML may grow before the stream has to move."""
    return head.header.data_size - _blob_size(head.domain_xml, head.cookie)


def edit_head(
    old: ImageHead, *, path: str, domain_xml: str | None = None, was_running: bool | None = None
) -> EditedHead:
    """Return the front of the same image with another domain XML, another state, or both.

    Version, byte order, format, cookie and the fields without a meaning stay.

    Args:
        old: the image's head as it is.
        path: named in errors.
        domain_xml: None keeps it.
        was_running: the guest runs after a restore; None keeps what the image says.

    Raises:
        NotSupportedError: the XML needs more room, and the stream of a sparse image cannot move.
        ImageFormatError: the front would be larger than any reader of ours takes.
    """
    xml = old.domain_xml if domain_xml is None else domain_xml
    # A NUL in it would end the text for every reader; XML cannot hold one.
    assert "\0" not in xml
    data_size = _data_size(old, xml, path)
    header = replace(
        old.header,
        data_size=data_size,
        cookie_offset=len(xml.encode()) + 1 if old.cookie else 0,
        was_running=old.header.was_running if was_running is None else was_running,
    )
    head = replace(old, header=header, domain_xml=xml)
    blob = _text(xml) + (_text(old.cookie) if old.cookie else b"")
    data = header.pack() + blob + bytes(data_size - len(blob))
    # Whatever is written has been read before.
    assert parse_head(data, path=path) == head
    return EditedHead(head=head, data=data, shift=data_size - old.header.data_size)


def _data_size(old: ImageHead, xml: str, path: str) -> int:
    """Return how many bytes stand between the header and the stream, for this XML."""
    size = old.header.data_size
    needed = _blob_size(xml, old.cookie)
    if needed <= size:
        return size
    if old.header.format is ImageFormat.SPARSE:
        raise NotSupportedError(
            path,
            f"new xml too large to fit in file: {needed} bytes with the cookie, and the memory of a"
            " sparse image cannot move",
            f"at most {size} bytes",
            "shorten the XML, or restore the image with it: --dxml",
            _OPERATION_FAILED,
        )
    grown = size + round_up(needed + PADDING_SIZE - size, STREAM_SHIFT)
    if grown > DATA_SIZE_MAX:
        raise ImageFormatError(path, f"{grown} bytes before the memory", f"at most {DATA_SIZE_MAX}")
    return grown


def _blob_size(xml: str, cookie: str) -> int:
    return len(_text(xml)) + (len(_text(cookie)) if cookie else 0)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
