"""Stand at the other end of a libvirt save or restore: two-phase commit over two pipes.

Save: libvirt opens its target, writes header ("Part"), XML and memory, closes it, opens
it again and writes the header anew ("Save"); only when that write has succeeded does the
guest go. The second open meets the *gate*: a pipe that is full, so the write blocks.
Draining the gate commits. Leaving it, on purpose or by dying, gives libvirt EPIPE, and
libvirt lets the guest run again.

Restore: libvirt opens its source once for the head, closes it, and opens it again for
all of it; the second time it meets another pipe.

Source: libvirt src/qemu/qemu_saveimage.c, qemuSaveImageCreate(), virQEMUSaveDataFinish(),
qemuSaveImageGetMetadata(), qemuSaveImageOpen(); LIBVIRT.md section 3.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Final

from engine.cancel import CancelToken
from engine.directio.pipes import PIPE_SIZE_MAX, PIPE_SIZE_MIN, fill_from_pipe, resize_pipe, write_to_pipe
from engine.errors import EngineError, HypervisorError
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.pipelink import PipeLink
from engine.image.header import HEADER_SIZE

#: Milliseconds between two looks at the call while nothing comes.
_POLL_MILLISECONDS: Final = 100
#: Seconds between two looks whether libvirt stands at the gate.
_GATE_POLL_SECONDS: Final = 0.01


def _open_pipe() -> tuple[int, int]:
    """Return read and write end of a non-blocking pipe of the smallest size.

    Small, so that libvirt cannot write (or read) a whole small image before the path
    leads to the next pipe: the head alone is more than 64 KiB.
    """
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    resize_pipe(ends[0], PIPE_SIZE_MIN)
    return ends


def _wait_ready(fd: int, event: int, call: HypervisorCall, cancel: CancelToken, where: str) -> None:
    """Return when libvirt has touched the pipe.

    Raises:
        EngineError: the call ended first; its own error where it had one.
        CancelledError: somebody asked to stop.
    """
    poll = select.poll()
    poll.register(fd, event)
    while not poll.poll(_POLL_MILLISECONDS):
        cancel.raise_if_cancelled(where)
        # libvirt may have touched the pipe and returned between the two looks: look once more.
        if call.has_returned and not poll.poll(0):
            raise call.error or HypervisorError(where, "libvirt returned without using the stream")


class SaveStream:
    """The engine's end of one save."""

    def __init__(self, directory: Path, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._link = PipeLink(directory)
        #: Read end of the stream.
        self.source, self._source_keep = _open_pipe()
        self._gate, gate_writer = _open_pipe()
        # More than fits, whatever the kernel made of the size: it takes what makes the pipe full.
        self._gate_fill = os.write(gate_writer, bytes(PIPE_SIZE_MAX))
        # From now on a writer at the gate can only be libvirt.
        os.close(gate_writer)
        self._link.lead_to(self.source)

    @property
    def path(self) -> str:
        """What libvirt is to save to."""
        return str(self._link.path)

    def wait_opened(self, call: HypervisorCall) -> None:
        """Return when libvirt has opened the stream; its next open meets the gate."""
        _wait_ready(self.source, select.POLLIN, call, self._cancel, self.path)
        self._link.lead_to(self._gate)
        # With our own write end gone, the end of libvirt's writing is the end of the stream.
        os.close(self._source_keep)
        self._source_keep = -1
        resize_pipe(self.source, PIPE_SIZE_MAX)

    def wait_at_gate(self, call: HypervisorCall) -> None:
        """Return when libvirt stands at the gate: only then was the stream's end the end of the memory.

        Raises:
            EngineError: libvirt failed before; what came through the stream is not whole.
            CancelledError: somebody asked to stop.
        """
        poll = select.poll()
        poll.register(self._gate, 0)
        # While nobody has the gate open for writing, the kernel reports it as hung up.
        while poll.poll(0):
            self._cancel.raise_if_cancelled(self.path)
            if call.wait(_GATE_POLL_SECONDS) and poll.poll(0):
                raise call.error or HypervisorError(self.path, "libvirt returned without coming to the gate")

    def commit(self, call: HypervisorCall) -> bytes:
        """Let libvirt pass; return the header it wrote, 92 bytes. The guest is being destroyed.

        Raises:
            EngineError: libvirt left the gate; the guest goes on.
        """
        # From here on nobody can stop it: a cancel that comes now is too late.
        forever = CancelToken()
        block = memoryview(bytearray(self._gate_fill + HEADER_SIZE))
        fill_from_pipe(self._gate, block[: self._gate_fill], forever, self.path)
        _wait_ready(self._gate, select.POLLIN, call, forever, self.path)
        if fill_from_pipe(self._gate, block[self._gate_fill :], forever, self.path) < HEADER_SIZE:
            call.wait()
            raise call.error or HypervisorError(self.path, "libvirt left the gate without its header")
        return bytes(block[self._gate_fill :])

    def abort(self, call: HypervisorCall) -> EngineError | None:
        """Leave stream and gate; return libvirt's error once it has put the guest back.

        None means that libvirt had succeeded all the same.
        """
        self._link.shut(self.source)
        self._link.shut(self._gate)
        self._close_keeper()
        call.wait()
        return call.error

    def _close_keeper(self) -> None:
        if self._source_keep >= 0:
            os.close(self._source_keep)
            self._source_keep = -1

    def close(self) -> None:
        """Give everything back; only after the call has returned."""
        self._close_keeper()
        os.close(self.source)
        os.close(self._gate)
        self._link.close()


class RestoreStream:
    """The engine's end of one restore."""

    def __init__(self, directory: Path, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._link = PipeLink(directory)
        self._head_reader, self._head = _open_pipe()
        self._stream_reader, self._stream = _open_pipe()
        self._link.lead_to(self._head_reader)

    @property
    def path(self) -> str:
        """What libvirt is to restore from."""
        return str(self._link.path)

    def send_head(self, head: bytes, call: HypervisorCall) -> None:
        """Serve libvirt's first look: header, XML, cookie. Its next open meets the stream.

        Args:
            head: the first bytes of the image, all of the head at least.
            call: the restore call, already started.
        """
        # While the pipe is full nobody has read; the first byte read means it was opened.
        first = os.write(self._head, head)
        _wait_ready(self._head, select.POLLOUT, call, self._cancel, self.path)
        self._link.lead_to(self._stream_reader)
        self._link.shut(self._head_reader)
        # libvirt reads what it wants and closes its end.
        with suppress(BrokenPipeError):
            write_to_pipe(self._head, head[first:], self._cancel, self.path)

    def send_first(self, data: memoryview, call: HypervisorCall) -> None:
        """Write the stream's first bytes once libvirt has opened it for good."""
        first = os.write(self._stream, data)
        _wait_ready(self._stream, select.POLLOUT, call, self._cancel, self.path)
        # Only libvirt and QEMU hold the read end now: when they go, we get EPIPE.
        self._link.shut(self._stream_reader)
        resize_pipe(self._stream, PIPE_SIZE_MAX)
        self.send(data[first:])

    def send(self, data: memoryview) -> None:
        """Write the next bytes of the image.

        Raises:
            BrokenPipeError: libvirt or QEMU left; the call has the reason.
        """
        write_to_pipe(self._stream, data, self._cancel, self.path)

    def commit(self) -> None:
        """Send what follows to its end: QEMU may start the guest before it has the very last bytes."""
        self._cancel = CancelToken()

    def finish(self) -> None:
        """Say that the image ends here."""
        os.close(self._stream)
        self._stream = -1

    def abort(self, call: HypervisorCall) -> EngineError | None:
        """Leave in the middle; return libvirt's error once it has taken the half guest down."""
        self._link.shut(self._head_reader)
        self._link.shut(self._stream_reader)
        self._close_writers()
        call.wait()
        return call.error

    def _close_writers(self) -> None:
        for name in ("_head", "_stream"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def close(self) -> None:
        """Give everything back; only after the call has returned."""
        self._close_writers()
        os.close(self._head_reader)
        os.close(self._stream_reader)
        self._link.close()
