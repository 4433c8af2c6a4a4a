"""Turn the bytes of an image file into the raw image that any libvirt takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from engine.errors import ImageFormatError
from engine.image.edit import edit_head
from engine.image.head import ImageHead
from engine.image.header import HEADER_SIZE, ImageFormat
from engine.units import MiB

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

#: Bytes that one step of decompression may give, whatever a hostile image holds.
_STEP_SIZE: Final = 1 * MiB


def front_for_hypervisor(
    head: ImageHead, first_bytes: bytes, *, path: str, domain_xml: str | None = None
) -> bytes:
    """Return what libvirt shall see before the memory: of a zstd image, the head of a raw one.

    Args:
        head: of the image.
        first_bytes: of the file, the whole head at least.
        path: named in errors.
        domain_xml: in place of the image's own; None keeps that, to the byte.

    Raises:
        ImageFormatError: the XML is larger than any head may be.
    """
    header, front = head.header, first_bytes[: head.header.stream_offset]
    if header.format is ImageFormat.ZSTD:
        header = replace(header, format=ImageFormat.RAW)
        front = header.pack() + front[HEADER_SIZE:]
    if domain_xml is None:
        return front
    return edit_head(replace(head, header=header), path=path, domain_xml=domain_xml).data


class ImageSender:
    """Takes the file's bytes in order, sends the raw image on.

    Args:
        head: the file's first bytes, up to the memory, as they were when the image was looked at.
        front: what stands before the memory of the image that is sent.
        is_packed: the memory is a zstd stream.
        send_first: takes the front.
        send: takes the rest.
        on_first: called before the front is sent.
    """

    def __init__(
        self,
        head: bytes,
        front: bytes,
        *,
        is_packed: bool,
        send_first: Callable[[memoryview], None],
        send: Callable[[memoryview], None],
        on_first: Callable[[], None],
    ) -> None:
        self._head = memoryview(head)
        self._front = memoryview(front)
        self._send_first = send_first
        self._send = send
        self._on_first = on_first
        self._is_first = True
        self._decompressor = ZstdDecompressor() if is_packed else None

    def deliver(self, data: memoryview) -> None:
        """Send what the next bytes of the file stand for.

        Raises:
            BrokenPipeError: nobody wants them any more.
            ImageFormatError: they are no zstd stream, or the head is not what it was.
        """
        size = min(len(self._head), len(data))
        if data[:size] != self._head[:size]:
            raise ImageFormatError("image", "its head changed while it was read", "the same", "try again")
        self._head = self._head[size:]
        if self._is_first:
            self._is_first = False
            self._on_first()
            self._send_first(self._front)
        rest = data[size:]
        if self._decompressor is None:
            self._send(rest)
        else:
            self._unpack(self._decompressor, rest)

    def finish(self) -> None:
        """Check that the stream came to its end.

        Raises:
            ImageFormatError: a zstd stream that is cut short.
        """
        if self._decompressor is not None and not self._decompressor.eof:
            raise ImageFormatError(
                "image", "the zstd stream has no end", "a whole one", "restore another image"
            )

    def _unpack(self, decompressor: ZstdDecompressor, data: memoryview) -> None:
        piece: memoryview | bytes = data
        try:
            while not decompressor.eof:
                raw = decompressor.decompress(piece, _STEP_SIZE)
                piece = b""
                if raw:
                    self._send(memoryview(raw))
                if decompressor.needs_input:
                    return
        except ZstdError as error:
            raise ImageFormatError(
                "image", f"no zstd stream: {error}", "what fleetsave or libvirt wrote"
            ) from error
