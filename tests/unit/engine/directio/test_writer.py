from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.cancel import CancelToken
from engine.directio import checksum as checksum_module
from engine.directio import target as target_module
from engine.directio.buffers import BufferRing
from engine.directio.feed import RawFeed
from engine.directio.target import DirectFile, open_direct
from engine.directio.writer import WrittenStream, write_stream
from engine.errors import CancelledError, ImageFormatError, NoSpaceError
from engine.flags import BypassPolicy
from tests.fault.world import NO_SPACE, FaultyOs

BUFFER = 8192
PART = 3 * BUFFER
DATA = random.Random(5).randbytes(12 * BUFFER)  # noqa: S311
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


def keep(block: bytes) -> bytes:
    """Finish nothing."""
    return block


def write(  # noqa: PLR0917 - cases
    data: bytes,
    file: DirectFile,
    count: int = 2,
    finish_block: Callable[[bytes], bytes] = keep,
    cancel: CancelToken | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> WrittenStream:
    """Write data through a pipe with a small ring; the feeder always ends."""
    source, sink = os.pipe()

    def feed() -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(sink, view) :]
        except BrokenPipeError:
            view = view[:0]
        os.close(sink)

    feeder = threading.Thread(target=feed)
    feeder.start()
    token = cancel or CancelToken()
    try:
        return write_stream(
            RawFeed(source, token, "stream"),
            file,
            BufferRing(count=count, size=BUFFER),
            finish_block=finish_block,
            on_progress=on_progress,
            cancel=token,
        )
    finally:
        os.close(source)
        feeder.join()


@settings(max_examples=60)
@given(
    st.integers(0, len(DATA)), st.integers(1, 5), st.sampled_from([BypassPolicy.REQUIRE, BypassPolicy.OFF])
)
@example(0, 1, BypassPolicy.REQUIRE)
@example(1, 1, BypassPolicy.REQUIRE)
@example(4095, 1, BypassPolicy.REQUIRE)
@example(4096, 1, BypassPolicy.REQUIRE)
@example(4097, 1, BypassPolicy.REQUIRE)
@example(BUFFER - 1, 2, BypassPolicy.REQUIRE)
@example(BUFFER, 2, BypassPolicy.REQUIRE)
@example(BUFFER + 1, 2, BypassPolicy.REQUIRE)
@example(PART - 1, 3, BypassPolicy.REQUIRE)
@example(PART, 3, BypassPolicy.REQUIRE)
@example(PART + 1, 3, BypassPolicy.REQUIRE)
@example(2 * PART, 1, BypassPolicy.REQUIRE)
def test_file_is_the_stream(
    tmp_path_factory: pytest.TempPathFactory, size: int, count: int, policy: BypassPolicy
) -> None:
    """Whatever the length and however few the buffers: same bytes, right checksums, true size."""
    path = tmp_path_factory.mktemp("stream") / "a"
    data, passed = DATA[:size], [0]
    with (
        pytest.MonkeyPatch.context() as patch,
        closing(open_direct(path, NEW, policy)) as file,
    ):
        patch.setattr(checksum_module, "PART_SIZE", PART)
        written = write(data, file, count, on_progress=passed.append)
        file.truncate(written.size)

    assert path.read_bytes() == data
    assert written.size == size
    assert written.checksum.value == blake3(data).hexdigest()
    assert written.checksum.parts == tuple(
        blake3(data[offset : offset + PART]).hexdigest() for offset in range(0, size, PART)
    )
    assert written.final_block == data[:4096]
    assert passed == sorted(passed)
    assert passed[-1] == size


def test_checksum_is_that_of_the_finished_image(tmp_path: Path) -> None:
    """The file keeps the first block as it came until the commit; the checksum is of what it will be."""
    with closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file:
        written = write(DATA, file, finish_block=lambda block: b"DONE" + block[4:])

    assert (tmp_path / "a").read_bytes() == DATA
    assert written.final_block == b"DONE" + DATA[4:4096]
    assert written.checksum.value == blake3(b"DONE" + DATA[4:]).hexdigest()


@pytest.mark.parametrize("nth", [0, 1, 5, 11])
def test_failed_write_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Whichever write fails, its error comes out, every thread ends, and every buffer comes back."""
    disk = FaultyOs()
    monkeypatch.setattr(target_module, "os", disk)
    disk.plan("pwrite", NO_SPACE, name="a", nth=nth)
    threads = threading.active_count()

    with (
        closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file,
        pytest.raises(NoSpaceError, match="writing at byte"),
    ):
        write(DATA, file)

    assert threading.active_count() == threads


def test_first_block_that_is_refused_ends_the_stream(tmp_path: Path) -> None:
    """What begins as no image is refused although a thread of its own looks at it."""

    def refuse(_block: bytes) -> bytes:
        raise ImageFormatError("stream", "no image")

    with (
        closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file,
        pytest.raises(ImageFormatError, match="no image"),
    ):
        write(DATA, file, finish_block=refuse)


@pytest.mark.parametrize("after", [1, BUFFER, 10 * BUFFER])
def test_cancel_ends_the_stream(tmp_path: Path, after: int) -> None:
    """Wherever it is, between two buffers it stops."""
    cancel = CancelToken()

    def stop(done: int) -> None:
        if done >= after:
            cancel.cancel("by a test")

    with (
        closing(open_direct(tmp_path / "a", NEW, BypassPolicy.REQUIRE)) as file,
        pytest.raises(CancelledError, match="by a test"),
    ):
        write(DATA, file, cancel=cancel, on_progress=stop)
