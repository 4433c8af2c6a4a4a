"""A local command that dies, however it dies, leaves no guest paused and no image half made."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import Guest, Host

pytestmark = pytest.mark.e2e

#: Runs the command line and stands still at a step until it is killed or cancelled.
_HELD = """
import pathlib, sys
import cli.local
from cli.main import main
from engine.cancel import CancelToken
step, marker, *words = sys.argv[1:]
token = CancelToken()
cli.local.CancelToken = lambda: token
class Held(cli.local._Shown):
    def step(self, reached):
        super().step(reached)
        if reached == step:
            pathlib.Path(marker).touch()
            token.wait()
cli.local._Shown = Held
main(words)
"""
#: Seconds that DESIGN.md allows until everything is right again.
_RIGHT_SECONDS = 10.0

Popen = subprocess.Popen[str]


def wait_until(condition: Callable[[], object], *, seconds: float = _RIGHT_SECONDS, what: str = "") -> Any:
    """Return what the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what or condition}"
        time.sleep(0.02)
    return value


@pytest.fixture
def hold(folder: Path) -> Callable[..., Popen]:
    """Give a function that starts a local command and returns once it stands at a step."""

    def start(host: Host, step: str, *words: str | Path, prefix: tuple[str, ...] = (), **how: Any) -> Popen:
        marker = folder.parent / f"marker-{folder.name}"
        argv = [*prefix, *host.python, "-c", _HELD, step, marker, *words]
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
        process = host.popen(argv, text=True, **how)
        wait_until(lambda: marker.exists() or process.poll() is not None, seconds=60, what=step)
        assert process.poll() is None, process.communicate()
        marker.unlink()
        return process

    return start


def guardians(host: Host) -> list[int]:
    """Return the guardians of the host's user that live."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                is_guardian = any(word.endswith(b"/guardian.py") for word in words)
                if is_guardian and place.stat().st_uid == host.uid:
                    found.append(int(place.name))
    return found


def nothing_left(host: Host, folder: Path) -> bool:
    """Tell whether neither staging nor runtime directories are left."""
    jobs = host.runtime_dir / "fleetsave/jobs"
    return not (
        [*folder.glob(".fleetsave-*"), *folder.glob(".staging/*")] or (jobs.is_dir() and any(jobs.iterdir()))
    )


def log_of(host: Host) -> str:
    """Return what guardians of the host have written."""
    path = host.runtime_dir / "fleetsave/guardian.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("step", ["opened", "stream", "prepared"])
@pytest.mark.parametrize("op", ["save", "checkpoint"])
def test_guest_of_a_killed_command_goes_on(
    steady_guest: Guest, folder: Path, hold: Callable[..., Popen], op: str, step: str
) -> None:
    """The image is swept, the guest runs, and the guardian has gone: all within 10 s of the kill."""
    host = steady_guest.host
    command = hold(host, step, op, steady_guest.name, "--local", "--to", folder / "a.save")
    assert len(guardians(host)) == 1

    command.kill()
    command.communicate()

    wait_until(lambda: nothing_left(host, folder) and not guardians(host), what="guardian")
    steady_guest.wait_state("running", timeout=_RIGHT_SECONDS)
    steady_guest.wait_counting()
    assert list(folder.iterdir()) == []
    assert "discarded" in log_of(host)


@pytest.mark.parametrize("is_point", [True, False])
def test_image_of_a_killed_command_is_published(
    running_guest: Guest, folder: Path, hold: Callable[..., Popen], is_point: bool
) -> None:
    """Killed when the guest had been let go: within 10 s its only copy stands under its name and restores."""
    host = running_guest.host
    where = ("--store", folder) if is_point else ("--to", folder / "a.save")
    command = hold(host, "committed", "save", running_guest.name, "--local", *where)
    before = running_guest.counter()

    command.kill()
    command.communicate()

    pattern = "*-*/*Z-*/memory.save" if is_point else "a.save"
    [image] = wait_until(lambda: list(folder.glob(pattern)), what="published image")
    wait_until(lambda: nothing_left(host, folder) and not guardians(host), what="guardian")
    assert "published" in log_of(host)
    restored = host.fleetsave("restore", image.parent if is_point else image, "--local", check=True)
    assert restored.stderr == ""
    running_guest.wait_counter_beyond(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_puts_the_guest_back(
    steady_guest: Guest, folder: Path, hold: Callable[..., Popen], number: signal.Signals
) -> None:
    """Ctrl-C, a stopped unit, a lost connection: exit code 130, and nothing for the guardian to do."""
    host = steady_guest.host
    told = log_of(host)
    command = hold(host, "stream", "save", steady_guest.name, "--local", "--to", folder / "a.save")

    command.send_signal(number)
    _, stderr = command.communicate(timeout=30)

    assert (command.returncode, stderr.count("\n")) == (130, 1)
    assert number.name in stderr
    assert nothing_left(host, folder)
    assert guardians(host) == []
    assert log_of(host) == told
    steady_guest.wait_state("running", timeout=_RIGHT_SECONDS)
    steady_guest.wait_counting()


def test_terminal_that_is_closed_puts_the_guest_back(
    steady_guest: Guest, folder: Path, hold: Callable[..., Popen]
) -> None:
    """The bar has no terminal any more, which disturbs nothing."""
    host = steady_guest.host
    master, slave = os.openpty()
    os.fchown(slave, host.uid, host.uid)
    words = ("save", steady_guest.name, "--local", "--to", folder / "a.save")
    command = hold(
        host, "stream", *words, prefix=("setsid", "--wait", "--ctty"), stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)

    os.close(master)

    command.wait(30)
    wait_until(lambda: nothing_left(host, folder) and not guardians(host), what="guardian")
    steady_guest.wait_state("running", timeout=_RIGHT_SECONDS)
    steady_guest.wait_counting()
    assert list(folder.iterdir()) == []


def kill_with_guardian(host: Host, command: Popen) -> None:
    """Kill a command and whoever watches over it."""
    [guardian] = guardians(host)
    os.kill(guardian, signal.SIGKILL)
    command.kill()
    command.communicate()


def test_next_command_puts_right_what_nobody_did(
    running_guest: Guest, folder: Path, hold: Callable[..., Popen]
) -> None:
    """Command and guardian killed: the restore of the image that is not there yet finds it, and says so."""
    host, image = running_guest.host, folder / "a.save"
    command = hold(host, "committed", "save", running_guest.name, "--local", "--to", image)
    before = running_guest.counter()
    kill_with_guardian(host, command)
    assert not image.exists()

    done = host.fleetsave("restore", image, "--local", "--json")

    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"fleetsave: put right: {running_guest.name}: published {image}")
    assert json.loads(done.stdout)["domain"] == running_guest.name
    running_guest.wait_counter_beyond(before)
    assert nothing_left(host, folder)


def test_doctor_finds_and_puts_right(steady_guest: Guest, folder: Path, hold: Callable[..., Popen]) -> None:
    """Looking changes nothing and is no success while something is left; by default it is put right."""
    host = steady_guest.host
    command = hold(host, "prepared", "save", steady_guest.name, "--local", "--store", folder)
    kill_with_guardian(host, command)
    steady_guest.wait_state("running", timeout=_RIGHT_SECONDS)

    looked = host.fleetsave("doctor", "--no-fix", "--store", folder, "--json")
    found = json.loads(looked.stdout)
    assert (looked.returncode, found["healthy"], found["recovered"]) == (75, False, [])
    assert [one["verdict"] for one in found["findings"] if one["name"] == "leftovers"] == ["error", "error"]
    assert not nothing_left(host, folder)

    fixed = host.fleetsave("doctor", "--store", folder, "--json")
    found = json.loads(fixed.stdout)
    assert (fixed.returncode, found["healthy"]) == (0, True)
    assert [one["kind"] for one in found["recovered"]] == ["discarded"]
    assert {one["name"] for one in found["findings"]} == {
        "libvirt", "store", "page cache", "space", "runtime directory", "leftovers",
    }  # fmt: skip
    assert nothing_left(host, folder)
    steady_guest.wait_counting()


def test_living_command_is_not_disturbed(
    steady_guest: Guest, folder: Path, hold: Callable[..., Popen]
) -> None:
    """Another command's recovery, and doctor's, leave its image alone; it ends as if nobody had looked."""
    host = steady_guest.host
    command = hold(host, "stream", "checkpoint", steady_guest.name, "--local", "--store", folder)

    done = host.fleetsave("doctor", "--store", folder, "--json")

    found = json.loads(done.stdout)
    assert (done.returncode, found["recovered"]) == (0, []), found
    assert len(list(folder.glob(".staging/*"))) == 1
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=30)
    assert nothing_left(host, folder)
    steady_guest.wait_counting()


def test_guest_with_autodestroy_lives_as_long_as_the_command(guest_factory: Callable[..., Guest]) -> None:
    """Until Ctrl-C; starting it was a success all the same."""
    guest = guest_factory()
    host = guest.host
    argv = [*host.python, "-m", "cli.main", "start", guest.name, "--local", "--autodestroy"]
    command = host.popen(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    guest.wait_counting()
    assert command.poll() is None

    command.send_signal(signal.SIGINT)
    stdout, stderr = command.communicate(timeout=30)

    assert command.returncode == 0
    assert f"{guest.name}: started" in stdout
    assert "until this command ends" in stderr
    guest.wait_state("shut off", timeout=_RIGHT_SECONDS)
