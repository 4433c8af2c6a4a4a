"""Stand at the far end of a save as libvirt does, in another process; leave at every instant."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cancel import CancelToken
from engine.directio.pipes import fill_from_pipe
from engine.errors import CancelledError, HypervisorError
from engine.hypervisor import stream as stream_module
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.stream import SaveStream
from tests.data.libvirt_peer import HEADER_SIZE


def _drain(stream: SaveStream) -> bytes:
    """Return everything up to the end of the stream."""
    drained = b""
    buffer = memoryview(bytearray(1 << 20))
    while count := fill_from_pipe(stream.source, buffer, CancelToken(), "stream"):
        drained += buffer[:count]
    return drained


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _ignore(_value: object) -> None:
    """Return nothing, as a hypervisor call does."""


def _is_blocked(pid: int) -> bool:
    """Tell whether the process sleeps in a system call."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_committed_save_passes(pipes: Path, image: Path, start_side: Any, assert_no_plain_file: Any) -> None:
    """Every byte arrives, libvirt stands at the gate until the commit, and then succeeds."""
    stream = SaveStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "save", stream.path, image)
    call = HypervisorCall(peer.call)
    call.start()

    stream.wait_opened(call)
    drained = _drain(stream)
    stream.wait_at_gate(call)
    peer.wait_for("reopened")
    _wait(lambda: _is_blocked(peer.process.pid))
    assert not call.has_returned
    header = stream.commit(call)

    assert call.wait(20)
    assert call.error is None
    whole = image.read_bytes()
    assert drained == b"LibvirtQemudPart" + whole[16:]
    assert header == whole[:HEADER_SIZE]
    assert_no_plain_file()
    stream.close()
    assert list(pipes.iterdir()) == []


@pytest.mark.parametrize(
    ("held_at", "status"),
    [
        ("opening", errno.EISDIR),
        ("opened", errno.EPIPE),
        ("midstream", errno.EPIPE),
        ("closed", errno.EISDIR),
        ("reopened", errno.EPIPE),
    ],
)
def test_aborted_save_fails_wherever_libvirt_is(  # noqa: PLR0917 - fixtures and cases
    pipes: Path, small_image: Path, start_side: Any, assert_no_plain_file: Any, held_at: str, status: int
) -> None:
    """Libvirt's next step after an abort fails: it never believes in an image, never makes a file."""
    stream = SaveStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "save", stream.path, small_image, held_at)
    call = HypervisorCall(peer.call)
    call.start()
    if held_at not in {"opening", "opened"}:
        stream.wait_opened(call)
    if held_at in {"closed", "reopened"}:
        _drain(stream)
    peer.wait_for(held_at)
    aborting = threading.Thread(target=stream.abort, args=(call,))
    aborting.start()
    # All that an abort does before it waits for libvirt: both numbers lead to a directory.
    _wait(lambda: all(Path(f"/proc/self/fd/{fd}").is_dir() for fd in (stream.source, stream._gate)))
    _wait(lambda: stream._source_keep == -1)
    peer.go()
    aborting.join(20)

    assert call.error is not None
    assert peer.end() == status
    assert_no_plain_file()
    stream.close()


@pytest.mark.parametrize("is_drained", [False, True], ids=["in-the-stream", "in-the-gate"])
def test_abort_frees_a_blocked_libvirt(
    pipes: Path, image: Path, start_side: Any, assert_no_plain_file: Any, *, is_drained: bool
) -> None:
    """A write that waits for us gets EPIPE; abort returns libvirt's error."""
    stream = SaveStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "save", stream.path, image)
    call = HypervisorCall(peer.call)
    call.start()
    stream.wait_opened(call)
    if is_drained:
        _drain(stream)
        stream.wait_at_gate(call)
        peer.wait_for("reopened")
    _wait(lambda: _is_blocked(peer.process.pid))

    error = stream.abort(call)

    assert isinstance(error, HypervisorError)
    assert peer.end() == errno.EPIPE
    assert_no_plain_file()
    stream.close()


@pytest.mark.parametrize(
    ("instant", "held_at", "status"),
    [
        ("made", "opening", errno.ENOENT),
        ("opened", "", errno.EPIPE),
        ("midstream", "", errno.EPIPE),
        ("drained", "closed", errno.ENOENT),
        ("drained", "reopened", errno.EPIPE),
        ("gate", "", errno.EPIPE),
    ],
)
def test_killed_engine_fails_libvirt_at_once(  # noqa: PLR0917 - fixtures
    pipes: Path,
    image: Path,
    start_side: Any,
    assert_no_plain_file: Any,
    instant: str,
    held_at: str,
    status: int,
) -> None:
    """SIGKILL at any instant before the commit: libvirt fails by itself, and nobody has to come."""
    engine = start_side("stream_side.py", "save", pipes, instant)
    path = engine.read_line()
    peer = start_side("libvirt_peer.py", "save", path, image, held_at)
    engine.wait_for(instant)
    if held_at:
        peer.wait_for(held_at)

    engine.kill()
    if held_at:
        peer.go()

    assert peer.end() == status
    assert_no_plain_file()


def test_engine_killed_after_the_commit_is_too_late(pipes: Path, image: Path, start_side: Any) -> None:
    """Once the gate was drained libvirt succeeds, whatever becomes of the engine."""
    engine = start_side("stream_side.py", "save", pipes, "committed")
    peer = start_side("libvirt_peer.py", "save", engine.read_line(), image)
    engine.wait_for("committed")

    engine.kill()

    assert peer.end() == 0


@pytest.mark.parametrize("held_at", ["opening", "opened"])
def test_call_that_ends_before_the_stream_begins_is_told(
    pipes: Path, image: Path, start_side: Any, held_at: str
) -> None:
    """When libvirt fails early nobody waits for it."""
    stream = SaveStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "save", stream.path, image, held_at)
    call = HypervisorCall(peer.call)
    call.start()
    peer.wait_for(held_at)
    peer.process.terminate()

    with pytest.raises(HypervisorError, match="errno -15"):
        stream.wait_opened(call)

    stream.abort(call)
    stream.close()


@pytest.mark.parametrize("held_at", ["head", "midstream", "closed"])
def test_stream_that_ends_too_early_is_not_taken_for_whole(
    pipes: Path, small_image: Path, start_side: Any, held_at: str
) -> None:
    """Libvirt's death looks like the end of the stream; that it never comes to the gate tells."""
    stream = SaveStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "save", stream.path, small_image, held_at)
    call = HypervisorCall(peer.call)
    call.start()
    stream.wait_opened(call)
    peer.wait_for(held_at)
    peer.process.terminate()
    _drain(stream)

    with pytest.raises(HypervisorError, match="errno -15"):
        stream.wait_at_gate(call)

    stream.abort(call)
    stream.close()


def test_libvirt_that_dies_at_the_gate_is_told(pipes: Path, small_image: Path, start_side: Any) -> None:
    """No header comes out of the gate: the commit fails with libvirt's error."""
    stream = SaveStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "save", stream.path, small_image, "reopened")
    call = HypervisorCall(peer.call)
    call.start()
    stream.wait_opened(call)
    _drain(stream)
    stream.wait_at_gate(call)
    peer.process.terminate()

    with pytest.raises(HypervisorError, match="errno -15"):
        stream.commit(call)

    stream.abort(call)
    stream.close()


@pytest.mark.parametrize("where", ["wait_opened", "wait_at_gate"])
def test_cancel_ends_every_wait(pipes: Path, where: str) -> None:
    """A cancelled engine does not wait for a libvirt that never comes."""
    cancel = CancelToken()
    stream = SaveStream(pipes, cancel)
    never = CancelToken()
    call = HypervisorCall(lambda: _ignore(never.wait()))
    call.start()
    cancel.cancel("by a test")

    with pytest.raises(CancelledError, match="by a test"):
        getattr(stream, where)(call)

    never.cancel("end of the test")
    stream.abort(call)
    stream.close()


@pytest.mark.parametrize("pipe_size", [4096, 65536], ids=["small-pages", "large-pages"])
def test_gate_is_full_whatever_the_page_size(
    pipes: Path, monkeypatch: pytest.MonkeyPatch, pipe_size: int
) -> None:
    """Not one byte goes into the gate before the commit, also where a pipe cannot be small."""
    monkeypatch.setattr(stream_module, "PIPE_SIZE_MIN", pipe_size)
    stream = SaveStream(pipes, CancelToken())
    stream._link.lead_to(stream._gate)
    gate = os.open(stream.path, os.O_WRONLY | os.O_NONBLOCK)

    with pytest.raises(BlockingIOError):
        os.write(gate, b"x")

    os.close(gate)
    stream._close_keeper()
    stream.close()


def test_libvirt_that_comes_and_returns_between_two_looks_is_not_missed() -> None:
    """A write that lands after the pipe was looked at, and before the call is, counts."""
    reader, writer = os.pipe()

    class LateCall:
        error = None

        @property
        def has_returned(self) -> bool:
            os.write(writer, b"header")
            return True

    call: Any = LateCall()

    stream_module._wait_ready(reader, select.POLLIN, call, CancelToken(), "gate")

    assert os.read(reader, 100).startswith(b"header")
    os.close(reader)
    os.close(writer)


def test_call_that_returns_without_a_touch_is_an_error() -> None:
    """Success of a call that never used the stream is not believed."""
    reader, writer = os.pipe()
    call = HypervisorCall(lambda: None)
    call.start()
    call.wait()

    with pytest.raises(HypervisorError, match="without using the stream"):
        stream_module._wait_ready(reader, select.POLLIN, call, CancelToken(), "gate")

    os.close(reader)
    os.close(writer)
