"""Leave nothing behind when a command dies that runs the engine in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

import engine.guardian
from cli.failure import printable
from engine import EngineError, recover
from engine.errors import UndecidedError
from engine.guardian import CLEAN_END, describe
from engine.recover import Recovery

#: Seconds for the guardian to go once it was told that all is well.
_GOING_SECONDS: Final = 5.0


@dataclass(slots=True)
class Guard:
    """What the guardian is told when the command ends by itself."""

    #: Something is left for it to decide.
    is_needed: bool = False

    def note(self, error: EngineError) -> None:
        """Look at a failure: after most of them everything is as it was."""
        self.is_needed = self.is_needed or isinstance(error, UndecidedError)


@contextmanager
def guarded(uri: str, runtime_dir: Path, directories: Sequence[Path]) -> Iterator[Guard]:
    """Have another process put right what this one leaves, should it die in the block, however it dies.

    The guardian leads a session of its own: neither Ctrl-C nor a terminal that is closed reaches it.

    Args:
        uri: libvirt connection URI.
        runtime_dir: of the engine in this process.
        directories: where it writes images.

    Raises:
        OSError: the guardian cannot be started.
    """
    reading, writing = os.pipe()
    process = os.pidfd_open(os.getpid())
    guard = Guard()
    try:
        child = _start_guardian(reading, process, uri, runtime_dir, directories)
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
        os.close(process)
    try:
        try:
            yield guard
        except EngineError as error:
            guard.note(error)
            raise
        except BaseException:
            guard.is_needed = True
            raise
    finally:
        if not guard.is_needed:
            os.write(writing, CLEAN_END)
        os.close(writing)
        _let_go(child, is_waiting=not guard.is_needed)


def put_right(uri: str, runtime_dir: Path, directories: Sequence[Path]) -> list[Recovery]:
    """Put right what earlier commands left that died, and say so on standard error; return what was done."""
    try:
        found = recover(uri, runtime_dir=runtime_dir, directories=directories)
    except (EngineError, OSError) as error:
        click.echo(printable(f"fleetsave: what earlier commands left was not looked at: {error}"), err=True)
        return []
    for one in found:
        how = "not put right yet" if one.kind == "undecided" else "put right"
        click.echo(printable(f"fleetsave: {how}: {describe(one)}"), err=True)
    return found


def _start_guardian(
    reading: int, process: int, uri: str, runtime_dir: Path, directories: Sequence[Path]
) -> subprocess.Popen[bytes]:
    order = {
        "uri": uri,
        "runtime_dir": str(runtime_dir),
        "directories": [str(directory) for directory in directories],
        "process": process,
    }
    program = Path(engine.guardian.__file__)
    # The packages of this very process, wherever they are: it imports them only when it has to.
    places = [str(program.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: without it, the modules of its own directory would hide those of the standard library.
        [sys.executable, "-P", str(program), json.dumps(order)],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[process],
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )


def _let_go(child: subprocess.Popen[bytes], *, is_waiting: bool) -> None:
    """Let the guardian end by itself; one that has work to do begins when this process is gone."""
    if is_waiting:
        try:
            child.wait(_GOING_SECONDS)
        except subprocess.TimeoutExpired:
            return
    else:
        # It outlives this process on purpose.
        child.returncode = 0
