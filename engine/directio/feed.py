"""Fill buffers with an image as it comes out of a pipe, raw or compressed on the way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, Protocol

from engine.cancel import CancelToken
from engine.directio.pipes import fill_from_pipe
from engine.units import MiB

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor
else:
    from backports.zstd import CompressionParameter, ZstdCompressor

#: Threads of one compressor: QEMU and libvirt need processors too.
ZSTD_WORKERS: Final = 2
#: Bytes handed to the compressor at a time.
_CHUNK_SIZE: Final = 1 * MiB
#: Bytes needed to learn how long the head is.
_HEADER_SIZE: Final = 92


class Feed(Protocol):
    """Where the bytes of an image file come from."""

    def fill(self, buffer: memoryview) -> int:
        """Fill the buffer; return the bytes in it, fewer only at the end of the image."""


class RawFeed:
    """The pipe's bytes as they are."""

    def __init__(self, source: int, cancel: CancelToken, where: str) -> None:
        self._source = source
        self._cancel = cancel
        self._where = where

    def fill(self, buffer: memoryview) -> int:
        """Fill the buffer from the pipe."""
        return fill_from_pipe(self._source, buffer, self._cancel, self._where)


class ZstdFeed:
    """The head as it is, the memory stream behind it as one zstd frame.

    Source: libvirt's save image format 5, which `zstd -dc` must be able to read.
    """

    def __init__(self, raw: RawFeed, *, level: int, head_size: Callable[[bytes], int]) -> None:
        self._raw = raw
        self._head_size = head_size
        self._compressor = ZstdCompressor(
            options={
                CompressionParameter.compression_level: level,
                CompressionParameter.nb_workers: ZSTD_WORKERS,
            }
        )
        self._chunk = memoryview(bytearray(_CHUNK_SIZE))
        self._head_left: int | None = None
        self._ready = memoryview(b"")
        self._is_over = False

    def fill(self, buffer: memoryview) -> int:
        """Fill the buffer with head and compressed stream."""
        done = 0
        while done < len(buffer):
            if not self._ready:
                if self._is_over:
                    break
                self._ready = memoryview(self._next())
                continue
            count = min(len(buffer) - done, len(self._ready))
            buffer[done : done + count] = self._ready[:count]
            self._ready = self._ready[count:]
            done += count
        return done

    def _next(self) -> bytes:
        """Return the next bytes of the image; may be none while the compressor gathers."""
        filled = self._raw.fill(self._chunk)
        data = self._chunk[:filled]
        if self._head_left is None:
            self._head_left = self._head_size(bytes(data[:_HEADER_SIZE]))
        head = bytes(data[: self._head_left])
        self._head_left -= len(head)
        packed = self._compressor.compress(data[len(head) :])
        if filled < len(self._chunk):
            self._is_over = True
            packed += self._compressor.flush()
        return head + packed
