"""Stand at the far end of a restore as libvirt does, in another process; leave at every instant."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cancel import CancelToken
from engine.errors import CancelledError, HypervisorError
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.stream import RestoreStream
from tests.data.libvirt_peer import WRONG_IMAGE


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("name", ["image", "small_image"])
def test_image_arrives_byte_for_byte(
    pipes: Path, request: pytest.FixtureRequest, start_side: Any, name: str
) -> None:
    """The first look sees the head, the second all of the image, however small."""
    file = request.getfixturevalue(name)
    image = memoryview(file.read_bytes())
    stream = RestoreStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "restore", stream.path, file)
    call = HypervisorCall(peer.call)
    call.start()

    stream.send_head(bytes(image[: 1 << 20]), call)
    stream.send_first(image[:100_000], call)
    stream.send(image[100_000:])
    stream.finish()

    assert call.wait(20)
    assert call.error is None
    stream.close()
    assert list(pipes.iterdir()) == []


@pytest.mark.parametrize(
    ("held_at", "status"),
    [
        # A directory can be opened for reading, but not read.
        ("opening", errno.EISDIR),
        # The first page of a head of more than 64 KiB, and then nothing.
        ("opened", errno.EINVAL),
        ("closed", errno.EISDIR),
        ("reopened", errno.EINVAL),
        ("midstream", WRONG_IMAGE),
    ],
)
def test_aborted_restore_fails_wherever_libvirt_is(
    pipes: Path, image: Path, start_side: Any, held_at: str, status: int
) -> None:
    """Libvirt's next step after an abort fails, or QEMU gets half an image; no call waits for ever."""
    data = memoryview(image.read_bytes())
    stream = RestoreStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "restore", stream.path, image, held_at)
    call = HypervisorCall(peer.call)
    call.start()
    if held_at not in {"opening", "opened"}:
        stream.send_head(bytes(data[: 1 << 20]), call)
    else:
        os.write(stream._head, data[:4096])
    if held_at == "midstream":
        stream.send_first(data[: 1 << 20], call)
    peer.wait_for(held_at)

    aborting = threading.Thread(target=stream.abort, args=(call,))
    aborting.start()
    _wait(lambda: (stream._head, stream._stream) == (-1, -1))
    peer.go()
    aborting.join(20)

    assert call.error is not None
    assert peer.end() == status
    stream.close()
    assert list(pipes.iterdir()) == []


@pytest.mark.parametrize(
    ("instant", "held_at", "status"),
    [
        ("made", "opening", errno.ENOENT),
        ("head", "closed", errno.ENOENT),
        ("midstream", "", WRONG_IMAGE),
        ("sent", "", 0),
    ],
)
def test_killed_engine_fails_libvirt_at_once(  # noqa: PLR0917 - fixtures and cases
    pipes: Path, image: Path, start_side: Any, instant: str, held_at: str, status: int
) -> None:
    """SIGKILL before all was sent: libvirt fails or QEMU sees the end; neither waits for anybody."""
    engine = start_side("stream_side.py", "restore", pipes, instant, image)
    peer = start_side("libvirt_peer.py", "restore", engine.read_line(), image, held_at)
    engine.wait_for(instant)
    if held_at:
        peer.wait_for(held_at)

    engine.kill()
    if held_at:
        peer.go()

    assert peer.end() == status


def test_death_of_qemu_in_mid_stream_is_a_broken_pipe(pipes: Path, image: Path, start_side: Any) -> None:
    """Whoever sends is told, and the call has the reason."""
    data = memoryview(image.read_bytes())
    stream = RestoreStream(pipes, CancelToken())
    peer = start_side("libvirt_peer.py", "restore", stream.path, image, "midstream")
    call = HypervisorCall(peer.call)
    call.start()
    stream.send_head(bytes(data[: 1 << 20]), call)
    stream.send_first(data[: 1 << 20], call)
    peer.wait_for("midstream")
    peer.process.terminate()

    with pytest.raises(BrokenPipeError):
        stream.send(data[1 << 20 :])

    assert isinstance(stream.abort(call), HypervisorError)
    stream.close()


def test_cancel_ends_a_send_that_nobody_reads(pipes: Path, image: Path, start_side: Any) -> None:
    """A full pipe does not keep a cancelled engine."""
    cancel = CancelToken()
    data = memoryview(image.read_bytes())
    stream = RestoreStream(pipes, cancel)
    peer = start_side("libvirt_peer.py", "restore", stream.path, image, "midstream")
    call = HypervisorCall(peer.call)
    call.start()
    stream.send_head(bytes(data[: 1 << 20]), call)
    stream.send_first(data[:100_000], call)
    peer.wait_for("midstream")
    cancel.cancel("by a test")

    with pytest.raises(CancelledError):
        stream.send(data[100_000:])

    peer.go()
    stream.abort(call)
    stream.close()


def test_cancel_after_the_commit_is_too_late(pipes: Path, small_image: Path, start_side: Any) -> None:
    """From the commit on everything is sent: half of the last bytes could start a guest."""
    cancel = CancelToken()
    data = memoryview(small_image.read_bytes())
    stream = RestoreStream(pipes, cancel)
    peer = start_side("libvirt_peer.py", "restore", stream.path, small_image)
    call = HypervisorCall(peer.call)
    call.start()
    stream.send_head(bytes(data), call)
    stream.send_first(data[:1000], call)

    stream.commit()
    cancel.cancel("by a test")
    stream.send(data[1000:])
    stream.finish()

    assert peer.end() == 0
    assert call.wait(20)
    stream.close()


@pytest.mark.parametrize("send", ["send_head", "send_first"])
def test_call_that_ends_early_is_told(pipes: Path, send: str) -> None:
    """When libvirt refuses at once nobody waits for it."""

    def refuse() -> None:
        raise HypervisorError("peer", "refused")

    stream = RestoreStream(pipes, CancelToken())
    call = HypervisorCall(refuse)
    call.start()

    with pytest.raises(HypervisorError, match="refused"):
        getattr(stream, send)(memoryview(bytes(100_000)), call)

    stream.abort(call)
    stream.close()
