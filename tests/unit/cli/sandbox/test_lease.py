import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cli.sandbox.lease import Lease, sweep
from cli.sandbox.processes import is_alive, read_start_ticks


def _lease_of_dead_owner(parent: Path) -> Lease:
    """Make the folder of a sandbox whose owner ran and ended."""
    owner = subprocess.Popen(["sleep", "60"])
    start_ticks = read_start_ticks(owner.pid)
    assert start_ticks is not None
    owner.kill()
    owner.wait()
    name = f"fsbx-{owner.pid:x}-{start_ticks:x}-0a1b2c"
    lease = Lease.parse(parent / name)
    assert lease is not None
    lease.base.mkdir()
    return lease


def test_folder_name_tells_the_owner(tmp_path: Path) -> None:
    """There is no moment at which a sandbox has a folder and no owner."""
    lease = Lease.take(tmp_path)

    assert Lease.parse(lease.base) == lease
    assert lease.owner_pid == os.getpid()
    assert not lease.is_stale()


def test_folder_is_open_to_other_users(tmp_path: Path) -> None:
    """The umask of the owner does not keep the hosts out of their own part."""
    before = os.umask(0o077)
    try:
        lease = Lease.take(tmp_path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(lease.base.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["fsbx-1-2", "fsbx-1-2-zzzzzz", "fsbx-1-2-0a1b2c-old", "other-1-2-0a1b2c"])
def test_other_folders_are_no_sandboxes(tmp_path: Path, name: str) -> None:
    """A sweep never touches what it did not make."""
    assert Lease.parse(tmp_path / name) is None


def test_later_process_with_the_same_id_is_not_the_owner(tmp_path: Path) -> None:
    """Process ids come round again; the start time tells them apart."""
    lease = Lease.take(tmp_path)

    assert replace(lease, owner_start_ticks=lease.owner_start_ticks - 1).is_stale()


def test_zombie_is_not_alive() -> None:
    """An owner that was killed and not yet collected by its parent owns nothing any more."""
    child = subprocess.Popen(["true"])
    start_ticks = read_start_ticks(child.pid)
    assert start_ticks is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(child.pid, start_ticks)
    child.wait()


def test_sweep_takes_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    """Two sandboxes may run at once; only the one without an owner goes."""
    alive = Lease.take(tmp_path)
    dead = _lease_of_dead_owner(tmp_path)
    (dead.base / "serial").mkdir()
    (dead.base / "serial" / "guest.log").write_text("counter 1\n")
    foreign = tmp_path / "fsbx-notes"
    foreign.mkdir()

    assert sweep(tmp_path) == [dead.base]
    assert sorted(tmp_path.iterdir()) == sorted([alive.base, foreign])


def test_sweep_of_nothing_is_quiet(tmp_path: Path) -> None:
    """The usual start finds no leftovers."""
    assert sweep(tmp_path) == []


def test_token_keeps_users_apart(tmp_path: Path) -> None:
    """Users are found by their prefix, so no sandbox's prefix begins another's."""
    first, second = Lease.take(tmp_path), Lease.take(tmp_path)

    assert not first.user_prefix.startswith(second.user_prefix)
    assert first.user_prefix.endswith("-")
