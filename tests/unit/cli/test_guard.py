import subprocess
import sys
from pathlib import Path

import pytest

from cli.guard import guarded, put_right
from engine.errors import CancelledError, UndecidedError
from tests.data.dead_engine import leave_image

URI = "test:///default"
_DIES = """
import os, sys
from pathlib import Path
from cli.guard import guarded
with guarded(sys.argv[1], Path(sys.argv[2]), [Path(sys.argv[3])]):
    os.kill(os.getpid(), 9)
"""


def test_command_that_ends_cleanly_leaves_no_log(tmp_path: Path) -> None:
    """The guardian was told that all is well, and has gone when the block is left."""
    with guarded(URI, tmp_path / "run", []) as guard:
        assert not guard.is_needed

    assert not (tmp_path / "run").exists()


def test_most_errors_leave_nothing_to_do(tmp_path: Path) -> None:
    """The engine has put everything back before it says so."""
    with pytest.raises(CancelledError), guarded(URI, tmp_path, []) as guard:
        raise CancelledError("web-1", "cancelled")

    assert not guard.is_needed


@pytest.mark.parametrize("error", [UndecidedError("web-1", "libvirt went away"), OSError("tty"), KeyError()])
def test_guardian_is_needed_where_nobody_knows(tmp_path: Path, error: Exception) -> None:
    """It looks once this process is gone."""
    with pytest.raises(type(error)), guarded(URI, tmp_path, []) as guard:
        raise error

    assert guard.is_needed


def test_guardian_publishes_what_a_killed_process_left(tmp_path: Path) -> None:
    """Its log in the runtime directory says so."""
    leave_image(tmp_path, "0123")
    log = tmp_path / "run" / "guardian.log"

    done = subprocess.run(
        [sys.executable, "-c", _DIES, URI, tmp_path / "run", tmp_path],
        timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == -9
    with subprocess.Popen(["tail", "-F", log], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
        assert tail.stdout is not None
        line = tail.stdout.readline().decode()
        tail.kill()
    assert "web-1: published" in line
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_was_put_right_is_said_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names come from anywhere, so nothing in them moves the terminal."""
    leave_image(tmp_path, "0123", state="writing")

    found = put_right(URI, tmp_path / "run", [tmp_path])

    assert [one.kind for one in found] == ["discarded"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fleetsave: put right: web-1: discarded")
    assert captured.err.count("\n") == 1


def test_nothing_to_put_right_is_not_worth_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor a connection: the address leads nowhere."""
    assert put_right("qemu+unix:///session?socket=/nonexistent", tmp_path, [tmp_path]) == []
    assert capsys.readouterr().err == ""
