from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cancel import CancelToken
from engine.directio.pipes import PIPE_SIZE_MAX, PIPE_SIZE_MIN, fill_from_pipe, resize_pipe, write_to_pipe
from engine.errors import CancelledError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give a non-blocking pipe."""
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield ends
    for end in ends:
        # A test may have closed one.
        try:
            os.close(end)
        except OSError:
            continue


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=8), st.integers(1, 9000))
def test_buffers_are_filled_whole_until_the_end(pieces: list[bytes], size: int) -> None:
    """However the writer cut it, each buffer is full except the last."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    data = b"".join(pieces)

    def feed() -> None:
        for piece in pieces:
            write_to_pipe(writer, piece, CancelToken(), "pipe")
        os.close(writer)

    feeder = threading.Thread(target=feed)
    feeder.start()
    received, buffer = [], memoryview(bytearray(size))
    while count := fill_from_pipe(reader, buffer, CancelToken(), "pipe"):
        received.append(bytes(buffer[:count]))
    feeder.join()
    os.close(reader)

    assert b"".join(received) == data
    assert all(len(part) == size for part in received[:-1])


@pytest.mark.parametrize("size", [0, 1, PIPE_SIZE_MIN, 3 * PIPE_SIZE_MAX])
def test_everything_is_written(size: int, pipe: tuple[int, int]) -> None:
    """More than the pipe holds goes in as the reader takes it."""
    reader, writer = pipe
    data = os.urandom(size)
    received = bytearray()

    def drain() -> None:
        buffer = memoryview(bytearray(65536))
        while count := fill_from_pipe(reader, buffer, CancelToken(), "pipe"):
            received.extend(buffer[:count])

    drainer = threading.Thread(target=drain)
    drainer.start()
    write_to_pipe(writer, data, CancelToken(), "pipe")
    os.close(writer)
    drainer.join()

    assert bytes(received) == data


def test_reader_that_has_gone_is_told(pipe: tuple[int, int]) -> None:
    """Nobody reads any more: the writer knows at once."""
    reader, writer = pipe
    os.close(reader)

    with pytest.raises(BrokenPipeError):
        write_to_pipe(writer, b"x", CancelToken(), "pipe")


@pytest.mark.parametrize("direction", ["read", "write"])
def test_cancel_ends_a_silent_pipe(pipe: tuple[int, int], direction: str) -> None:
    """A pipe that never becomes ready does not keep a cancelled loop."""
    reader, writer = pipe
    cancel = CancelToken()
    failures: list[BaseException] = []

    def transfer() -> None:
        try:
            if direction == "read":
                fill_from_pipe(reader, memoryview(bytearray(10)), cancel, "pipe")
            else:
                write_to_pipe(writer, bytes(4 * PIPE_SIZE_MAX), cancel, "pipe")
        except CancelledError as error:
            failures.append(error)

    thread = threading.Thread(target=transfer)
    thread.start()
    cancel.cancel("by a test")
    thread.join(20)

    assert len(failures) == 1


def test_pipe_is_resized(pipe: tuple[int, int]) -> None:
    """Down to one page and up to what an ordinary process may have."""
    reader, _ = pipe

    assert resize_pipe(reader, PIPE_SIZE_MIN) == fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == PIPE_SIZE_MIN
    assert resize_pipe(reader, PIPE_SIZE_MAX) == fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == PIPE_SIZE_MAX


def test_pipe_that_holds_more_stays_as_it_is(pipe: tuple[int, int]) -> None:
    """Less than what is inside cannot be had: the size found is told, nothing is lost."""
    reader, writer = pipe
    os.write(writer, bytes(20_000))

    size = resize_pipe(reader, PIPE_SIZE_MIN)

    assert size == fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) >= 20_000
    assert len(os.read(reader, 65536)) == 20_000
