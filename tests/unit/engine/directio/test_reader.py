from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.cancel import CancelToken
from engine.checksum import Checksum
from engine.directio import checksum as checksum_module
from engine.directio import reader as reader_module
from engine.directio import target as target_module
from engine.directio.buffers import BufferRing
from engine.directio.checksum import StreamChecksum
from engine.directio.reader import HOLD_BACK_SIZE, check_parts, read_stream
from engine.directio.target import open_direct
from engine.errors import CancelledError, ChecksumError, ImageIncompleteError, StorageError
from engine.flags import BypassPolicy
from engine.units import KiB
from tests.fault.world import FaultyOs, refusal

BUFFER = 8192
PART = 3 * BUFFER
HOLD_BACK = 20_000
#: Held back, read ahead, and one to work with.
COUNT = -(-HOLD_BACK // BUFFER) + 2 + 3 + 1
DATA = random.Random(6).randbytes(20 * BUFFER)  # noqa: S311


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts and what is held back be small."""
    monkeypatch.setattr(checksum_module, "PART_SIZE", PART)
    monkeypatch.setattr(reader_module, "HOLD_BACK_SIZE", HOLD_BACK)


def sums_of(data: bytes) -> Checksum:
    """Return the checksums of some bytes."""
    sums = StreamChecksum()
    sums.update(data)
    return sums.finish()


class Receiver:
    """Notes what it is given, and when the rest was let go."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.before_last: int | None = None
        self.progress = [0]

    def deliver(self, data: memoryview) -> None:
        """Take bytes."""
        self.received += data

    def let_go(self) -> None:
        """Note how much had come."""
        self.before_last = len(self.received)


def read(
    path: Path, size: int, expected: Checksum | None = None, **options: Any
) -> tuple[Receiver, Checksum]:
    """Read a file with a small ring."""
    receiver: Receiver = options.pop("receiver", None) or Receiver()
    with closing(open_direct(path, os.O_RDONLY, BypassPolicy.REQUIRE)) as file:
        found = read_stream(
            file,
            size,
            BufferRing(count=COUNT, size=BUFFER),
            expected=expected,
            deliver=options.pop("deliver", receiver.deliver),
            before_last=receiver.let_go,
            on_progress=receiver.progress.append,
            cancel=options.pop("cancel", CancelToken()),
        )
    return receiver, found


@settings(max_examples=60)
@given(st.integers(0, len(DATA)))
@example(0)
@example(1)
@example(4096)
@example(BUFFER)
@example(BUFFER + 1)
@example(HOLD_BACK)
@example(HOLD_BACK + 1)
@example(PART * 2)
@example(len(DATA))
def test_every_byte_is_delivered_in_order(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    """Whatever the length: same bytes, right checksums, and the last ones only after all was read."""
    path = tmp_path_factory.mktemp("image") / "a"
    path.write_bytes(DATA[:size])

    receiver, found = read(path, size, sums_of(DATA[:size]))

    assert bytes(receiver.received) == DATA[:size]
    assert found == sums_of(DATA[:size])
    assert receiver.before_last is not None
    assert receiver.before_last <= max(0, size - HOLD_BACK)
    assert receiver.progress == sorted(receiver.progress)
    assert receiver.progress[-1] == size


@settings(max_examples=60)
@given(st.integers(1, len(DATA)), st.data())
def test_damage_is_found_before_the_last_bytes_go(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: st.DataObject
) -> None:
    """One byte that differs, anywhere: the error comes, and not one of the held-back bytes was delivered."""
    offset = data.draw(st.integers(0, size - 1))
    damaged = bytearray(DATA[:size])
    damaged[offset] ^= 1
    path = tmp_path_factory.mktemp("image") / "a"
    path.write_bytes(damaged)
    receiver = Receiver()

    with pytest.raises(ChecksumError, match=f"damaged in part {offset // PART} ") as caught:
        read(path, size, sums_of(DATA[:size]), receiver=receiver)

    assert caught.value.exit_code == 13
    assert len(receiver.received) <= max(0, size - HOLD_BACK)
    assert receiver.before_last is None


def test_what_is_held_back_is_more_than_qemu_can_do_without() -> None:
    """QEMU starts a guest that lacks the stream's last few KiB: what is held back is far more."""
    assert 1024 * KiB <= HOLD_BACK_SIZE


@pytest.mark.parametrize("lost", [1, 4096, BUFFER, len(DATA) - 1])
def test_file_that_ends_early_is_told(tmp_path: Path, lost: int) -> None:
    """A file that is shorter than it was said to be is no whole image."""
    (tmp_path / "a").write_bytes(DATA[:-lost])
    receiver = Receiver()

    with pytest.raises(ImageIncompleteError, match="ends early"):
        read(tmp_path / "a", len(DATA), receiver=receiver)

    assert len(receiver.received) <= len(DATA) - HOLD_BACK


@pytest.mark.parametrize("nth", [0, 3, 19])
def test_failed_read_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Whichever read fails, its error comes out and every thread ends."""
    (tmp_path / "a").write_bytes(DATA)
    disk = FaultyOs()
    monkeypatch.setattr(target_module, "os", disk)
    disk.plan("preadv", refusal(errno.EIO), name="a", nth=nth)
    threads = threading.active_count()

    with pytest.raises(StorageError, match="reading at byte"):
        read(tmp_path / "a", len(DATA))

    assert threading.active_count() == threads


@pytest.mark.parametrize("error", [BrokenPipeError(), KeyboardInterrupt()])
def test_receiver_that_fails_ends_the_stream(tmp_path: Path, error: BaseException) -> None:
    """What the receiver raises comes out as it is, and nothing is left running."""
    (tmp_path / "a").write_bytes(DATA)
    threads = threading.active_count()

    def fail(_data: memoryview) -> None:
        raise error

    with pytest.raises(type(error)):
        read(tmp_path / "a", len(DATA), deliver=fail)

    assert threading.active_count() == threads


def test_cancel_ends_the_stream(tmp_path: Path) -> None:
    """Between two buffers it stops; the last bytes were not delivered."""
    (tmp_path / "a").write_bytes(DATA)
    cancel, receiver = CancelToken(), Receiver()

    def stop(data: memoryview) -> None:
        receiver.deliver(data)
        cancel.cancel("by a test")

    with pytest.raises(CancelledError, match="by a test"):
        read(tmp_path / "a", len(DATA), cancel=cancel, deliver=stop, receiver=receiver)

    assert len(receiver.received) == BUFFER


def change_first(sums: Checksum) -> Checksum:
    """Return other checksums of the first part."""
    return replace(sums, value="0" * 64, parts=("0" * 64, *sums.parts[1:]))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (change_first, "0"),
        (lambda sums: replace(sums, value="0" * 64), "unknown"),
        (lambda sums: replace(sums, value="0" * 64, parts=sums.parts[:-1]), "6"),
        (lambda sums: replace(sums, value="0" * 64, parts=()), "0, 1, 2, 3, 4, 5, 6"),
        (lambda sums: replace(sums, algorithm="sha256"), "unknown"),
    ],
)
def test_damaged_parts_are_named(change: Callable[[Checksum], Checksum], parts: str) -> None:
    """The operator learns which parts are bad."""
    found = sums_of(DATA)

    with pytest.raises(ChecksumError, match=f"damaged in part {parts} of"):
        check_parts(found, change(found), "a.save")
    check_parts(found, sums_of(DATA), "a.save")
