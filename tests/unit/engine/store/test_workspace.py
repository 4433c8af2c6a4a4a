from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.errors import DomainBusyError, StorageError
from engine.store.staging import lock_directory
from engine.store.workspace import STAGING_LINK, lock_domain, open_workspace

UUID = "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"
_ROOT = Path(__file__).resolve().parents[4]
_HOLDER = """
import sys
from pathlib import Path
from engine.store.workspace import lock_domain, open_workspace
with lock_domain(Path(sys.argv[1]), sys.argv[2], "web-1"), open_workspace(Path(sys.argv[1]), "job-1"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Give another process that holds the domain and works on job-1."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "run"), UUID],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_lock_excludes_another_process(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """While somebody holds the domain nobody else gets it, and is told that it may be tried again."""
    with (
        pytest.raises(DomainBusyError, match="web-1") as caught,
        lock_domain(tmp_path / "run", UUID, "web-1"),
    ):
        pytest.fail("held twice")

    assert caught.value.is_transient
    assert holder.poll() is None
    with lock_domain(tmp_path / "run", UUID.replace("0", "1"), "web-2"):
        """Another domain is free."""


@pytest.mark.parametrize("how", ["kill", "end"])
def test_lock_goes_with_its_process(tmp_path: Path, holder: subprocess.Popen[str], how: str) -> None:
    """However the holder goes, SIGKILL included, the domain is free at once."""
    if how == "kill":
        holder.kill()
        holder.wait(20)
    else:
        holder.communicate("go\n", 20)

    with lock_domain(tmp_path / "run", UUID, "web-1"):
        assert (tmp_path / "run" / "locks" / f"{UUID}.lock").read_text() == f"{os.getpid()}\n"


def test_lock_is_given_back(tmp_path: Path) -> None:
    """One after the other is no conflict, an error between included."""
    with pytest.raises(RuntimeError, match="inside"), lock_domain(tmp_path, UUID, "web-1"):
        raise RuntimeError("inside")
    with lock_domain(tmp_path, UUID, "web-1"):
        """Free again."""


def test_workspace_is_for_its_owner_alone_and_gone_afterwards(tmp_path: Path) -> None:
    """A 0700 directory under a 0700 directory; nothing of it is left, an error between included."""
    run = tmp_path / "run"
    with suppress(RuntimeError), open_workspace(run, "job-1") as directory:
        (directory / "pipe").symlink_to("/proc/1/fd/1")
        assert [path.stat().st_mode & 0o777 for path in (run, directory.parent, directory)] == [0o700] * 3
        raise RuntimeError("inside")

    assert list((run / "jobs").iterdir()) == []


def test_lock_taken_first_makes_the_runtime_directory_private(tmp_path: Path) -> None:
    """It is the first thing that an operation makes there."""
    with lock_domain(tmp_path / "run", "0000", "web-1"):
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run", tmp_path / "run/locks")}

    assert modes == {0o700}


def test_workspace_tells_recovery_where_the_job_writes(tmp_path: Path) -> None:
    """After a crash the staging directory is found through the link."""
    with open_workspace(tmp_path, "job-1", tmp_path / "staging") as directory:
        assert (directory / STAGING_LINK).readlink() == tmp_path / "staging"


def test_living_workspace_is_locked(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """Recovery can tell a living job's directory from a dead one's."""
    directory = tmp_path / "run" / "jobs" / "job-1"
    assert lock_directory(directory) is None

    holder.kill()
    holder.wait(20)

    lock = lock_directory(directory)
    assert lock is not None
    os.close(lock)


def test_one_job_has_one_workspace(tmp_path: Path) -> None:
    """A second process for the same job is refused and does not disturb the first."""
    with open_workspace(tmp_path, "job-1") as directory:
        with pytest.raises(StorageError, match="exists"), open_workspace(tmp_path, "job-1"):
            pytest.fail("opened twice")
        assert directory.is_dir()


@pytest.mark.parametrize("opener", ["workspace", "lock"])
def test_runtime_directory_that_cannot_be_made_is_told(opener: str) -> None:
    """A parent that takes no directories is a storage error that names the path."""
    run = Path("/proc/fleetsave")

    opened = open_workspace(run, "job-1") if opener == "workspace" else lock_domain(run, UUID, "web-1")

    with pytest.raises(StorageError, match="/proc/fleetsave"):
        opened.__enter__()


def test_workspace_that_cannot_be_filled_is_not_left(tmp_path: Path) -> None:
    """An error after the directory was made takes it away again."""
    with pytest.raises(StorageError, match="File name too long"):
        open_workspace(tmp_path, "job-1", Path("x" * 5000)).__enter__()

    assert list((tmp_path / "jobs").iterdir()) == []


def test_remains_of_a_killed_removal_are_no_obstacle(tmp_path: Path) -> None:
    """A job whose earlier removal was cut short can be removed again."""
    gone = tmp_path / "jobs" / ".gone-job-1"
    gone.mkdir(parents=True)
    (gone / "pipe").touch()

    with open_workspace(tmp_path, "job-1"):
        """Nothing to do."""

    assert list((tmp_path / "jobs").iterdir()) == []
