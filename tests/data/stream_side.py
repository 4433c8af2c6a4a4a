"""Be the engine's side of one stream, in a process that a test may kill at a named instant.

`stream_side.py save|restore DIRECTORY HOLD_AT [IMAGE]`: prints the path for libvirt, then
each instant; stands still at one of them until standard input says a line.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from engine.cancel import CancelToken
from engine.directio.pipes import fill_from_pipe
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.stream import RestoreStream, SaveStream


def reach(instant: str) -> None:
    """Say where we are; stand still where we were told to."""
    sys.stdout.write(f"{instant}\n")
    sys.stdout.flush()
    if instant == sys.argv[3]:
        sys.stdin.readline()


def run_save(directory: Path, call: HypervisorCall) -> None:
    """Take a stream and commit it."""
    cancel = CancelToken()
    stream = SaveStream(directory, cancel)
    reach(stream.path)
    reach("made")
    stream.wait_opened(call)
    reach("opened")
    fill_from_pipe(stream.source, memoryview(bytearray(70_000)), cancel, "stream")
    reach("midstream")
    buffer = memoryview(bytearray(1 << 20))
    while fill_from_pipe(stream.source, buffer, cancel, "stream") == len(buffer):
        pass
    reach("drained")
    stream.wait_at_gate(call)
    reach("gate")
    stream.commit(call)
    reach("committed")


def run_restore(directory: Path, call: HypervisorCall, image: bytes) -> None:
    """Serve an image."""
    stream = RestoreStream(directory, CancelToken())
    reach(stream.path)
    reach("made")
    stream.send_head(image, call)
    reach("head")
    middle = len(image) // 2
    stream.send_first(memoryview(image)[:middle], call)
    reach("midstream")
    stream.send(memoryview(image)[middle:])
    reach("sent")
    stream.finish()
    reach("finished")


def wait_for_ever() -> None:
    """Be a call that never returns."""
    threading.Event().wait()


def main() -> None:
    """Do what the command line says."""
    # The test has called libvirt's stand-in; here nobody ever hears of its return.
    call = HypervisorCall(wait_for_ever)
    call.start()
    directory = Path(sys.argv[2])
    if sys.argv[1] == "save":
        run_save(directory, call)
    else:
        run_restore(directory, call, Path(sys.argv[4]).read_bytes())


if __name__ == "__main__":
    main()
