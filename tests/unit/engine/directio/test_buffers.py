from __future__ import annotations

import ctypes
import mmap
import os
import time

import pytest

from engine.directio.buffers import BufferRing


def test_ring_hands_out_so_many_buffers_and_no_more() -> None:
    """Memory is bounded: who comes when all are out waits, and is told that there is none."""
    ring = BufferRing(count=3, size=8192)

    taken = [ring.take() for _ in range(3)]

    assert [len(buffer) for buffer in taken if buffer is not None] == [8192] * 3
    began = time.monotonic()
    assert ring.take(0.05) is None
    assert time.monotonic() - began >= 0.04
    assert taken[1] is not None
    ring.give_back(taken[1])
    assert ring.take() is taken[1]


@pytest.mark.parametrize("size", [4096, 65536, 2 << 20])
def test_buffers_are_aligned_to_pages(size: int) -> None:
    """O_DIRECT takes nothing less."""
    buffer = BufferRing(count=1, size=size).take()
    assert buffer is not None

    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % mmap.PAGESIZE == 0


def test_buffers_are_shared_with_a_child() -> None:
    """A fork in the middle of direct I/O must not copy pages away from the kernel: both see one memory."""
    buffer = BufferRing(count=1, size=4096).take()
    assert buffer is not None
    pid = os.fork()
    if pid == 0:
        buffer[:5] = b"child"
        os._exit(0)
    os.waitpid(pid, 0)

    assert bytes(buffer[:5]) == b"child"
