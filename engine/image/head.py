"""Take apart what stands before the memory stream: header, domain XML, cookie, padding.

Source: libvirt src/qemu/qemu_saveimage.c, virQEMUSaveDataWrite(); qemuSaveImageReadHeader().
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ImageFormatError, ImageIncompleteError
from engine.image.header import HEADER_SIZE, Header, parse_header


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHead:
    """A save image up to its memory stream."""

    header: Header
    #: The domain XML the guest was saved with; holds secrets.
    domain_xml: str
    #: libvirt's own notes (the full CPU definition); empty where there are none.
    cookie: str


def parse_head(data: bytes, *, path: str, accept_partial: bool = False) -> ImageHead:
    """Return header, domain XML and cookie of the image that data begins.

    Args:
        data: the first header.stream_offset bytes of the image, or more.
        path: named in errors.
        accept_partial: take an image that is still being written.

    Raises:
        ImageFormatError: the head cannot be what libvirt writes.
        ImageIncompleteError: the save never finished, or data ends inside the head.
    """
    header = parse_header(data, path=path, accept_partial=accept_partial)
    if len(data) < header.stream_offset:
        raise ImageIncompleteError(
            path,
            f"image ends at byte {len(data)}, inside its head",
            f"at least {header.stream_offset} bytes",
            "the file was cut short: restore an earlier image",
        )
    blob = bytes(data[HEADER_SIZE : header.stream_offset])
    xml = _text_at(blob, 0, "domain XML", path)
    cookie = ""
    if header.cookie_offset:
        if header.cookie_offset <= len(xml.encode()):
            raise ImageFormatError(
                path,
                f"cookieOffset at byte 32 is {header.cookie_offset}",
                f"beyond the {len(xml)} bytes of XML",
            )
        cookie = _text_at(blob, header.cookie_offset, "cookie", path)
    return ImageHead(header=header, domain_xml=xml, cookie=cookie)


def _text_at(blob: bytes, offset: int, what: str, path: str) -> str:
    """Return the NUL-terminated UTF-8 text that begins at offset, bytes from the header's end."""
    end = blob.find(b"\0", offset)
    if end < 0:
        raise ImageFormatError(
            path, f"{what} at byte {HEADER_SIZE + offset} has no end", "a NUL inside the head"
        )
    try:
        return blob[offset:end].decode()
    except UnicodeDecodeError as error:
        raise ImageFormatError(path, f"{what} at byte {HEADER_SIZE + offset} is no UTF-8 text") from error
