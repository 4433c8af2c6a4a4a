"""Make up the memory of a simulated guest, and take it up again: every byte follows from UUID and counter.

A stream is 16 bytes of magic, the UUID, the memory's length, the memory in pieces that begin
with UUID and number, and at the end, as the CPUs stop last, counter and checksum.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final
from uuid import UUID

from blake3 import blake3

from engine.hypervisor.sim.codes import OPERATION_FAILED, failure
from engine.units import KiB

PIECE_SIZE: Final = 256 * KiB
_MAGIC: Final = b"fleetsave-sim-1\0"
_HEAD: Final = struct.Struct("<16s16sQ")
_STAMP: Final = struct.Struct("<16sQ")
_TAIL: Final = struct.Struct("<8sQ32s")
_END: Final = b"sim-end\0"


class MemoryWriter:
    """Gives out the stream of one guest's memory."""

    def __init__(self, uuid: str, size: int) -> None:
        self._uuid = UUID(uuid).bytes
        self._size = size
        self._hash = blake3()

    def pieces(self) -> Iterator[bytes]:
        """Yield head and memory; the CPUs may still run."""
        yield self._hashed(_HEAD.pack(_MAGIC, self._uuid, self._size))
        for number, offset in enumerate(range(0, self._size, PIECE_SIZE)):
            yield self._hashed(_piece(self._uuid, number, min(PIECE_SIZE, self._size - offset)))

    def tail(self, counter: int) -> bytes:
        """Return the end of the stream, for a guest that has counted so far and stands."""
        self._hash.update(counter.to_bytes(8, "little"))
        return _TAIL.pack(_END, counter, self._hash.digest())

    def _hashed(self, data: bytes) -> bytes:
        self._hash.update(data)
        return data


def load_memory(read: Callable[[int], bytes], where: str, *, on_half: Callable[[], None]) -> int:
    """Take up a stream to its end; return what the guest had counted to.

    Args:
        read: returns so many bytes, fewer only at the end.
        where: domain, named in errors.
        on_half: called when about half of the memory has come.

    Raises:
        HypervisorError: it is not the whole stream that a simulated guest was written as.
    """
    total = blake3()

    def take(size: int) -> bytes:
        data = read(size)
        if len(data) < size:
            raise _load_failure(where)
        total.update(data)
        return data

    magic, uuid, size = _HEAD.unpack(take(_HEAD.size))
    if magic != _MAGIC:
        raise _load_failure(where)
    for number, offset in enumerate(range(0, size, PIECE_SIZE)):
        if offset <= size // 2 < offset + PIECE_SIZE:
            on_half()
        length = min(PIECE_SIZE, size - offset)
        if take(length) != _piece(uuid, number, length):
            raise _load_failure(where)
    tail = read(_TAIL.size)
    if len(tail) < _TAIL.size:
        raise _load_failure(where)
    end, counter, digest = _TAIL.unpack(tail)
    total.update(counter.to_bytes(8, "little"))
    if end != _END or digest != total.digest():
        raise _load_failure(where)
    return int(counter)


def _piece(uuid: bytes, number: int, length: int) -> bytes:
    stamp = _STAMP.pack(uuid, number)
    return (stamp + _filling()[len(stamp) : length])[:length]


@cache
def _filling() -> bytes:
    """Return bytes that no compressor makes shorter."""
    return random.Random(0).randbytes(PIECE_SIZE)  # noqa: S311 - only to look like memory in use


def _load_failure(where: str) -> Exception:
    found = "operation failed: job 'start' failed: load of migration failed: Input/output error"
    return failure(OPERATION_FAILED, where, found)
