"""Turn the bytes of an image file into the raw image that any libvirt takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from engine.errors import ImageFormatError
from engine.image.head import ImageHead
from engine.image.header import HEADER_SIZE, ImageFormat
from engine.units import MiB

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

#: Bytes that one step of decompression may give, whatever a hostile image holds.
_STEP_SIZE: Final = 1 * MiB


def head_for_hypervisor(head: ImageHead, first_bytes: bytes) -> bytes:
    """Return what libvirt shall see at its first look: of a zstd image, the head of a raw one."""
    if head.header.format is not ImageFormat.ZSTD:
        return first_bytes
    raw = replace(head.header, format=ImageFormat.RAW).pack()
    return raw + first_bytes[HEADER_SIZE : head.header.stream_offset]


class ImageSender:
    """Takes the file's bytes in order, sends the raw image on.

    Args:
        head: of the image.
        send_first: takes the first bytes of the raw image.
        send: takes the rest.
        on_first: called before the first bytes are sent.
    """

    def __init__(
        self,
        head: ImageHead,
        send_first: Callable[[memoryview], None],
        send: Callable[[memoryview], None],
        on_first: Callable[[], None],
    ) -> None:
        self._head = head
        self._send_first = send_first
        self._send = send
        self._on_first = on_first
        self._is_first = True
        self._head_left = head.header.stream_offset
        is_packed = head.header.format is ImageFormat.ZSTD
        self._decompressor = ZstdDecompressor() if is_packed else None

    def deliver(self, data: memoryview) -> None:
        """Send what the next bytes of the file stand for.

        Raises:
            BrokenPipeError: nobody wants them any more.
            ImageFormatError: they are no zstd stream.
        """
        head, rest = data[: self._head_left], data[self._head_left :]
        self._head_left -= len(head)
        if self._is_first:
            self._is_first = False
            self._on_first()
            self._send_first(memoryview(head_for_hypervisor(self._head, bytes(head))))
        elif head:
            self._send(head)
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
