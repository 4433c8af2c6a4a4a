"""Make real file systems for tests, take them away again, and write images on them as the engine does."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Final

from engine.cancel import CancelToken
from engine.directio.buffers import BufferRing
from engine.directio.feed import RawFeed
from engine.directio.target import DirectFile
from engine.directio.writer import WrittenStream, write_stream
from engine.units import MiB

#: Bytes; odd, several buffers, the last one not full.
STREAM_SIZE: Final = 5 * MiB + 12_345
#: File system and bytes per sector of what does direct I/O.
DISKS: Final = (("ext4", 512), ("ext4", 4096), ("xfs", 512), ("xfs", 4096))
#: Smallest that mkfs takes; sparse files all of them.
SIZES: Final = {"ext4": 64 * MiB, "xfs": 320 * MiB}


@cache
def stream_bytes() -> bytes:
    """Return the bytes that every test writes."""
    return random.Random(7).randbytes(STREAM_SIZE)  # noqa: S311


def run(*command: object) -> str:
    """Run a system tool; return what it prints, or fail with what it says."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


class Mounts:
    """Makes file systems and takes them away again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._count = 0

    def loop(self, kind: str, sector_size: int, options: str = "defaults") -> Path:
        """Return the root of a new file system on a loop device."""
        image = self._folder / f"{self._count}.img"
        with image.open("wb") as file:
            file.truncate(SIZES[kind])
        device = run("losetup", "--show", "--find", "--sector-size", sector_size, image)
        self._stack.callback(run, "losetup", "--detach", device)
        # No blocks set aside for root, who runs this.
        run(f"mkfs.{kind}", "-q", *(("-m", 0) if kind == "ext4" else ()), device)
        return self._mount("-t", kind, "-o", options, device)

    def memory(self, kind: str) -> Path:
        """Return the root of a new file system in memory."""
        return self._mount("-t", kind, kind)

    def _mount(self, *arguments: object) -> Path:
        root = self._folder / str(self._count)
        self._count += 1
        root.mkdir()
        run("mount", *arguments, root)
        self._stack.callback(run, "umount", root)
        return root


def write(file: DirectFile, data: bytes) -> WrittenStream:
    """Write what comes out of a pipe to the file, as a save does, and sync it."""
    source, sink = os.pipe()

    def feed() -> None:
        view = memoryview(data)
        # When the writing fails, as some tests want it to, nobody reads to the end.
        with suppress(BrokenPipeError):
            while view:
                view = view[os.write(sink, view) :]
        os.close(sink)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        written = write_stream(
            RawFeed(source, CancelToken(), str(file.path)),
            file,
            BufferRing(),
            finish_block=lambda block: block,
            on_progress=lambda _: None,
            cancel=CancelToken(),
        )
    finally:
        os.close(source)
        feeder.join()
    file.truncate(written.size)
    file.sync()
    return written
