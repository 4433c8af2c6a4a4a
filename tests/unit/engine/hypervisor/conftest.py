"""Start the two sides of a stream in processes of their own; end what is left of them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from engine.errors import HypervisorError
from tests.data.libvirt_peer import make_image

_ROOT = Path(__file__).resolve().parents[4]
_SECONDS = 20.0


class Side:
    """One process that names its instants and stands still at one of them."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(_ROOT / "tests" / "data" / script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            text=True,
        )

    def read_line(self) -> str:
        """Return the next line it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for(self, instant: str) -> None:
        """Return once it has said that it is there."""
        while (line := self.read_line()) != instant:
            assert line, f"ended with {self.process.wait(_SECONDS)} before {instant}"

    def go(self) -> None:
        """Let it go on from where it stands still."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Return its exit status; fail if it does not end by itself."""
        return self.process.wait(_SECONDS)

    def kill(self) -> None:
        """Kill it as nothing else can."""
        self.process.kill()
        self.process.wait(_SECONDS)

    def call(self) -> None:
        """Be the hypervisor call: return when it ends; its exit status is the error.

        Raises:
            HypervisorError: it failed.
        """
        status = self.end()
        if status:
            raise HypervisorError("peer", f"errno {status}")


class StartSide(Protocol):
    """Starts one side."""

    def __call__(self, script: str, *arguments: object) -> Side:
        """Start it."""


@pytest.fixture
def start_side() -> Iterator[StartSide]:
    """Give a function that starts a process; none outlives the test."""
    started: list[Side] = []

    def start(script: str, *arguments: object) -> Side:
        started.append(Side(script, *arguments))
        return started[-1]

    yield start
    for side in started:
        side.kill()
        for pipe in (side.process.stdin, side.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a file with a complete image, larger than what pipes hold on the way."""
    path = tmp_path / "image"
    path.write_bytes(make_image("<domain/>", random.Random(1).randbytes(3_000_000)))  # noqa: S311
    return path


@pytest.fixture
def small_image(tmp_path: Path) -> Path:
    """Give a file with a complete image that fits into the pipes."""
    path = tmp_path / "small-image"
    path.write_bytes(make_image("<domain/>", b"memory" * 20_000))
    return path


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    """Give the directory that the path for libvirt is in."""
    directory = tmp_path / "pipes"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def assert_no_plain_file(pipes: Path) -> Callable[[], None]:
    """Give a function that sees that nobody made a file of the path."""

    def check() -> None:
        assert [path for path in pipes.iterdir() if path.is_file() or not path.is_symlink()] == []

    return check
