from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.hypervisor.pipelink import PipeLink


def test_path_opens_the_pipe_it_leads_to(tmp_path: Path) -> None:
    """Whoever opens the path for writing holds the pipe itself; the next one another pipe."""
    link = PipeLink(tmp_path)
    pipes = [os.pipe(), os.pipe()]
    for reader, writer in pipes:
        link.lead_to(reader)
        fd = os.open(link.path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
        os.write(fd, b"x")
        assert os.read(reader, 10) == b"x"
        os.close(fd)
        os.close(writer)
        os.close(reader)
    link.close()
    assert list(tmp_path.iterdir()) == []


def test_shut_path_cannot_be_written_nor_made(tmp_path: Path) -> None:
    """An abandoned number leads to a directory: an open for writing fails, and makes no file."""
    link = PipeLink(tmp_path)
    reader, writer = os.pipe()
    link.lead_to(reader)

    link.shut(reader)

    with pytest.raises(OSError, match="directory") as caught:
        os.open(link.path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
    assert caught.value.errno == errno.EISDIR
    # Nobody reads any more: whoever had opened the pipe is told.
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    os.close(reader)
    link.close()


def test_path_leads_nowhere_once_its_process_is_dead(tmp_path: Path) -> None:
    """The path of a dead engine neither opens nor becomes a file."""
    path = tmp_path / "pipe"
    pid = os.fork()
    if pid == 0:
        PipeLink(tmp_path).lead_to(os.pipe()[0])
        os._exit(0)
    os.waitpid(pid, 0)

    assert path.is_symlink()
    with pytest.raises(FileNotFoundError):
        os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
    assert not path.exists()
