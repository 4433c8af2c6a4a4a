"""Drive a hypervisor through the port and through the engine, in this process or in one of the host's user.

The streams need the process that libvirt's daemon can look into, so for libvirt the bench is
a program: requests and answers are pickled, in frames of four bytes of length and the data.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

from engine import Engine, list_domains, recover
from engine.cancel import CancelToken
from engine.directio.pipes import fill_from_pipe
from engine.errors import EngineError
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.connect import connect
from engine.hypervisor.stream import RestoreStream, SaveStream
from engine.image.head import ImageHead, parse_head
from engine.image.header import HEADER_SIZE
from engine.steps import Step

LENGTH = struct.Struct(">I")
#: Seconds that anything here may take at most.
PATIENCE = 60.0


class StepCanceller:
    """Observes an engine; cancels it at one step."""

    def __init__(self, cancel: CancelToken, at: str) -> None:
        self._cancel = cancel
        self._at = at
        self.steps: list[str] = []

    def step(self, step: Step) -> None:
        """Note the step."""
        self.steps.append(step.value)
        if step == self._at:
            self._cancel.cancel("by the test")

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """Ignore it."""

    def guest(self, state: str) -> None:
        """Ignore it."""


class Bench:
    """One connection, at most one stream, and files of the host's user."""

    def __init__(self, uri: str, folder: str) -> None:
        self.uri = uri
        self.folder = Path(folder)
        self._hypervisor: Any = connect(uri)
        self._save: SaveStream | None = None
        self._call: HypervisorCall | None = None
        self._drained = b""

    def hypervisor(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call the hypervisor."""
        return getattr(self._hypervisor, method)(*arguments, **options)

    def beside(self, method: str, *arguments: Any, read_only: bool = False, **options: Any) -> Any:
        """Call it over a second connection, which is closed afterwards."""
        other: Any = connect(self.uri, read_only=read_only)
        try:
            return getattr(other, method)(*arguments, **options)
        finally:
            other.close()

    def call_closed(self) -> Any:
        """Call it over a connection that was closed."""
        other = connect(self.uri)
        other.close()
        return other.list_domains()

    def events(self, uuid: str, wanted: list[str], since: float) -> list[str]:
        """Return what the guest's CPUs did after `since`, as soon as it is what is wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            seen = [what for at, what in self._hypervisor.pauses(uuid) if at >= since]
            if seen == wanted or time.monotonic() > deadline:
                return seen
            time.sleep(0.01)

    def wait_state(self, uuid: str, wanted: str) -> str:
        """Return the domain's state, as soon as it is what is wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            state: str = self._hypervisor.find_domain(uuid).state
            if state == wanted or time.monotonic() > deadline:
                return state
            time.sleep(0.02)

    def now(self, uuid: str) -> float:
        """Return time.monotonic() once all is told of what the guest's CPUs did before.

        Events may come later than the answer to the call that they are about.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._has_told_all(uuid) and time.monotonic() < deadline:
            time.sleep(0.01)
        return time.monotonic()

    def _has_told_all(self, uuid: str) -> bool:
        """Tell whether the last events explain the domain's state."""
        state = self._hypervisor.find_domain(uuid).state
        told = [what for _, what in self._hypervisor.pauses(uuid)]
        if not told:
            return True
        if state != "running":
            return told[-1] == {"shut off": "stopped", "paused": "paused"}.get(state)
        last_stop = len(told) - 1 - told[::-1].index("stopped") if "stopped" in told else None
        of_run = told if last_stop is None else told[last_stop + 1 :]
        # A start tells of both, in either order.
        is_whole = last_stop is None or {"started", "resumed"} <= set(of_run)
        return is_whole and of_run[-1] in {"started", "resumed"}

    def begin_save(self, uuid: str, dxml: str | None = None, flags: int = 0) -> None:
        """Call save into a stream; return when the hypervisor has opened it."""
        self._begin(lambda path: self._hypervisor.save(uuid, path, dxml, flags))

    def begin_checkpoint(self, uuid: str) -> None:
        """Call checkpoint into a stream; return when the hypervisor has opened it."""
        xml = "<domainsnapshot><memory snapshot='external' file='{}'/><disks/></domainsnapshot>"
        self._begin(lambda path: self._hypervisor.checkpoint(uuid, xml.format(path)))

    def _begin(self, call: Callable[[str], None]) -> None:
        stream = SaveStream(self.make_folder(), CancelToken())
        self._save, self._call = stream, HypervisorCall(lambda: call(stream.path))
        self._call.start()
        stream.wait_opened(self._call)

    def drain(self) -> SimpleNamespace:
        """Read the stream to its end; wait until the hypervisor stands at the gate.

        Returns: size (bytes), head, and whether it is held there: the call has not returned.
        """
        stream, call = self._running()
        data, chunk = bytearray(), memoryview(bytearray(1 << 20))
        while count := fill_from_pipe(stream.source, chunk, CancelToken(), "stream"):
            data += chunk[:count]
        stream.wait_at_gate(call)
        self._drained = bytes(data)
        head = parse_head(self._drained, path="stream", accept_partial=True)
        return SimpleNamespace(size=len(data), head=head, is_held=not call.has_returned)

    def commit(self, image: str) -> ImageHead:
        """Let the hypervisor pass the gate; write the whole image; return its head.

        Raises:
            EngineError: the call failed.
        """
        stream, call = self._running()
        header = stream.commit(call)
        self._end(call)
        whole = header + self._drained[HEADER_SIZE:]
        Path(image).write_bytes(whole)
        return parse_head(whole, path=image)

    def abort(self) -> None:
        """Leave the stream; raise what the call failed with."""
        stream, call = self._running()
        stream.abort(call)
        self._end(call)

    def leave(self) -> None:
        """Leave a stream that a failed test has left open."""
        if self._save is not None:
            with suppress(EngineError):
                self.abort()

    def read_out(self, *, lose_path: bool = False) -> None:
        """Read to the end, the stream's path removed or not; raise what the call failed with."""
        stream, call = self._running()
        if lose_path:
            Path(stream.path).unlink()
        chunk = memoryview(bytearray(1 << 20))
        while fill_from_pipe(stream.source, chunk, CancelToken(), "stream"):
            continue
        assert call.wait(PATIENCE), "the call never returned"
        self._end(call)

    def _running(self) -> tuple[SaveStream, HypervisorCall]:
        assert self._save is not None, "no save runs"
        assert self._call is not None
        return self._save, self._call

    def _end(self, call: HypervisorCall) -> None:
        assert self._save is not None
        assert call.wait(PATIENCE), "the call never returned"
        self._save.close()
        self._save = self._call = None
        if call.error is not None:
            raise call.error

    def feed(self, image: str, dxml: str | None = None, flags: int = 0, *, cut: int = 0) -> None:
        """Restore from a stream that gives the image, less its last bytes; raise what the call fails with."""
        data = Path(image).read_bytes()
        head = parse_head(data, path=image).header.stream_offset
        stream = RestoreStream(self.make_folder(), CancelToken())
        call = HypervisorCall(lambda: self._hypervisor.restore(stream.path, dxml, flags))
        call.start()
        try:
            stream.send_head(data[:head], call)
            stream.send_first(memoryview(data)[:head], call)
            stream.send(memoryview(data)[head : len(data) - cut])
            stream.finish()
        except BrokenPipeError as error:
            refusal = stream.abort(call)
            stream.close()
            raise refusal or error from error
        assert call.wait(PATIENCE), "the call never returned"
        stream.close()
        if call.error is not None:
            raise call.error

    def engine(
        self,
        method: str,
        *arguments: Any,
        cancel_at: str = "",
        managed: str = "",
        read_only: bool = False,
        **options: Any,
    ) -> Any:
        """Call an engine of its own; with `cancel_at` it is cancelled at that step."""
        cancel = CancelToken()
        with Engine(
            self.uri,
            runtime_dir=self.folder / "run",
            host="bench",
            store=self.folder / "store",
            managed_save_dir=managed or None,
            read_only=read_only,
            observer=StepCanceller(cancel, cancel_at),
            cancel=cancel,
        ) as engine:
            return getattr(engine, method)(*arguments, **options)

    def recover(self, *directories: str) -> list[Any]:
        """Put right what dead engines left."""
        return list(recover(self.uri, runtime_dir=self.folder / "run", directories=directories))

    def list_domains(self) -> list[Any]:
        """Return what the engine lists."""
        return list(list_domains(self.uri))

    def make_folder(self) -> Path:
        """Make a new folder."""
        path = self.folder / os.urandom(6).hex()
        path.mkdir()
        return path

    def damage(self, path: str, *, cut: int = 0, garbage: bool = False) -> None:
        """Cut the end off a file, or put something else in its place."""
        if garbage:
            Path(path).write_bytes(b"no save image" * 50)
        else:
            os.truncate(path, Path(path).stat().st_size - cut)

    def replace_in_xml(self, path: str, to: str, old: str, new: str) -> None:
        """Copy an image with another text of the same length in its XML."""
        data = Path(path).read_bytes()
        end = parse_head(data, path=path).header.stream_offset
        head = data[:end].replace(old.encode(), new.encode())
        assert head != data[:end]
        assert len(head) == end
        Path(to).write_bytes(head + data[end:])

    def mark_partial(self, path: str, to: str) -> None:
        """Copy an image as it would be if its save had not finished."""
        data = Path(path).read_bytes()
        header = parse_head(data, path=path).header
        Path(to).write_bytes(replace(header, is_complete=False).pack() + data[HEADER_SIZE:])


class RemoteBench:
    """A bench in a process of somebody else."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            write_frame(self._process.stdin, (method, arguments, options))
            is_error, answer = read_frame(self._process.stdout)
            if is_error:
                raise answer
            return answer

        return call

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def write_frame(file: BinaryIO, value: Any) -> None:
    """Write one value."""
    data = pickle.dumps(value)
    file.write(LENGTH.pack(len(data)) + data)
    file.flush()


def read_frame(file: BinaryIO) -> Any:
    """Read one value; EOFError at the end."""
    length = file.read(LENGTH.size)
    if len(length) < LENGTH.size:
        raise EOFError
    return pickle.loads(file.read(LENGTH.unpack(length)[0]))  # noqa: S301 - from our own program


def main() -> None:
    """Serve until the other side closes."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever prints must not get between the frames.
    os.dup2(2, 1)
    bench = Bench(*sys.argv[1:])
    while True:
        try:
            method, arguments, options = read_frame(cast("BinaryIO", source))
        except EOFError:
            return
        try:
            answer = False, getattr(bench, method)(*arguments, **options)
        except (EngineError, AssertionError, OSError) as error:
            answer = True, error
        except Exception as error:  # noqa: BLE001 - the tests are told of whatever gets out of the port
            answer = True, AssertionError(f"no error of the engine's: {type(error).__name__}: {error}")
        write_frame(target, answer)


if __name__ == "__main__":
    main()
