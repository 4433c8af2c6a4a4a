import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from cli.sandbox import DiskSpec, Guest, RedisServer, Sandbox, SandboxError
from cli.sandbox.processes import POLL_SECONDS, end_owned, list_owned
from cli.sandbox.project import ROOT

pytestmark = pytest.mark.e2e

#: Opens a sandbox with a guest, says so, and waits to be killed.
_OWNER = """
import sys
from pathlib import Path
from cli.sandbox import GuestSpec, Sandbox
sandbox = Sandbox(("gamma",), parent=Path(sys.argv[1]))
host = sandbox.hosts["gamma"]
sandbox.start_redis()
host.define(GuestSpec(name="left")).start()
print(host.user, flush=True)
sys.stdin.read()
"""

#: Adopts orphans and never collects them, as process 1 of many containers; runs the program it is given.
_CARELESS = """
import ctypes, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""

#: Prints how long it takes to stop a guest, seconds.
_STOPPER = """
import sys, time
from pathlib import Path
from cli.sandbox import GuestSpec, Sandbox
with Sandbox(("gamma",), parent=Path(sys.argv[1])) as sandbox:
    guest = sandbox.hosts["gamma"].define(GuestSpec(name="stopped", fill_mib=0))
    guest.start(paused=True)
    begun = time.monotonic()
    guest.host.virsh("destroy", "stopped")
    print(time.monotonic() - begun)
"""


@pytest.fixture
def parent() -> Iterator[Path]:
    """Give a short folder for sandboxes of this test only: names of Unix sockets are bounded."""
    folder = Path("/var/tmp") / f"fst-{os.getpid():x}"
    folder.mkdir()
    yield folder
    folder.rmdir()  # Fails if a sandbox has left anything behind.


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for what nothing announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def _sleepers(uid: int) -> list[int]:
    return [pid for pid in list_owned({uid}) if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]


def _user_names() -> set[str]:
    return {entry.pw_name for entry in pwd.getpwall()}


def test_plain_save_and_restore_keep_the_counter_going(running_guest: Guest) -> None:
    """The number is in guest memory only: it goes on exactly where it stopped, and the memory is intact."""
    image = running_guest.host.store / f"{running_guest.name}.save"

    running_guest.host.virsh("save", running_guest.name, image)
    assert running_guest.state() == "shut off"
    saved_at = running_guest.counter()
    running_guest.host.virsh("restore", image)
    running_guest.wait_counter_beyond(saved_at)

    assert running_guest.counters() == list(range(1, running_guest.counter() + 1))
    running_guest.wait_memory_checked()
    assert running_guest.memory_ok()


def test_hosts_see_their_own_domains_only(sandbox: Sandbox, guest_factory: Callable[..., Guest]) -> None:
    """Each host has a libvirt of its own, as on machines of their own."""
    alpha, beta = sandbox.hosts["alpha"], sandbox.hosts["beta"]
    here, there = guest_factory(host=alpha), guest_factory(host=beta)

    assert here.name in alpha.domain_names()
    assert here.name not in beta.domain_names()
    assert there.name in beta.domain_names()
    assert there.name not in alpha.domain_names()


def test_guest_restored_on_the_other_host_counts_on(sandbox: Sandbox, running_guest: Guest) -> None:
    """The serial file is shared, so the handle of either host sees the whole story."""
    alpha, beta = sandbox.hosts["alpha"], sandbox.hosts["beta"]
    image, moved = alpha.store / "move.save", beta.store / "move.save"
    alpha.virsh("save", running_guest.name, image)
    saved_at = running_guest.counter()
    image.rename(moved)
    os.chown(moved, beta.uid, beta.account.user.gid)

    beta.virsh("restore", moved)
    there = beta.guest(running_guest.spec)

    there.wait_counter_beyond(saved_at)
    assert there.counters() == list(range(1, there.counter() + 1))


def test_hosts_cannot_read_each_other(sandbox: Sandbox) -> None:
    """Restore points hold the memory of guests: another user gets no byte of them."""
    alpha, beta = sandbox.hosts["alpha"], sandbox.hosts["beta"]
    alpha.run(["touch", alpha.store / "secret"])

    with pytest.raises(SandboxError, match="Permission denied"):
        beta.run(["cat", alpha.store / "secret"])


def test_host_runs_this_checkout(sandbox: Sandbox) -> None:
    """The code under test is the one beside the tests, with nothing of our environment."""
    alpha = sandbox.hosts["alpha"]
    program = "import os, importlib.util as u; print(u.find_spec('engine').origin, *os.environ)"

    origin, *names = alpha.run([*alpha.python, "-c", program]).stdout.split()

    assert Path(origin).read_bytes() == (ROOT / "engine" / "__init__.py").read_bytes()
    assert set(names) == set(alpha.environment)


def test_store_takes_direct_io(sandbox: Sandbox) -> None:
    """A store in memory would make every test of the cache bypass meaningless."""
    alpha = sandbox.hosts["alpha"]

    alpha.run(["dd", "if=/dev/zero", f"of={alpha.store}/probe", "bs=4096", "count=1", "oflag=direct"])


def test_guest_with_a_disk_writes_its_counter_there(
    sandbox: Sandbox, guest_factory: Callable[..., Guest]
) -> None:
    """What is on the disk and what is in memory belong together: a restore point has to keep both."""
    alpha = sandbox.hosts["alpha"]
    disk = alpha.home / "disk.raw"
    alpha.run(["truncate", "--size", "16M", disk])
    guest = guest_factory(disks=(DiskSpec(path=disk),), writes_disk=True, fill_mib=8, machine="q35")
    guest.start()
    guest.wait_counter_beyond(2)
    alpha.virsh("suspend", guest.name)

    written = disk.read_bytes()[:32].split(b"\n")[0]
    assert written in {b"counter %d" % (guest.counter() - 1), b"counter %d" % guest.counter()}


def test_transient_guest_is_gone_when_it_stops(guest_factory: Callable[..., Guest]) -> None:
    """Some operations have rules of their own for domains without a persistent definition."""
    guest = guest_factory(transient=True, fill_mib=0)
    guest.start(paused=True)
    assert guest.state() == "paused"

    guest.host.virsh("destroy", guest.name)

    assert guest.name not in guest.host.domain_names()


def test_guest_that_never_counts_shows_its_last_words(guest_factory: Callable[..., Guest]) -> None:
    """A wait that fails says which guest, for what, and what it saw."""
    guest = guest_factory()

    with pytest.raises(SandboxError, match=rf"guest {guest.name} on alpha: waited 0.1 s until it counts"):
        guest.wait_counting(timeout=0.1)


def test_redis_keeps_its_data_over_a_stop(redis_server: RedisServer) -> None:
    """Tests of lost brokers need one that comes back with what it had acknowledged."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("fact", "kept")
    redis_server.stop()

    redis_server.start()

    with redis.Redis.from_url(redis_server.url) as client:
        assert client.get("fact") == b"kept"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_redis_that_cannot_start_says_why(parent: Path) -> None:
    """A mistake in the directives of a test shows Redis' own words."""
    with Sandbox((), parent=parent) as sandbox, pytest.raises(SandboxError, match="did not start"):
        sandbox.start_redis({"maxmemory-policy": "nonsense"})


def test_close_leaves_nothing(parent: Path) -> None:
    """No process, no user, no file: the machine is as it was."""
    with Sandbox(("gamma",), parent=parent) as sandbox:
        host = sandbox.hosts["gamma"]
        sandbox.start_redis()
        stubborn = host.popen(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"], stdout=-1)
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        assert host.domain_names() == []
        assert list_owned({host.uid})

    assert list_owned({host.uid}) == []
    assert host.user not in _user_names()
    assert not sandbox.base.exists()
    assert stubborn.returncode == -signal.SIGKILL


def test_failed_start_leaves_nothing(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users that were made before the failure go again."""
    before = _user_names()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.sandbox.sandbox.open_project", interrupt)

    with pytest.raises(KeyboardInterrupt):
        Sandbox(("gamma", "delta"), parent=parent)

    assert {name for name in _user_names() - before if name.endswith(("-gamma", "-delta"))} == set()


def test_next_start_sweeps_what_a_killed_owner_left(parent: Path) -> None:
    """SIGKILL runs no clean-up: guests, daemons, users and files wait for the next sandbox."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(parent)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        user = owner.stdout.readline().strip()
        owner.kill()
    uid = pwd.getpwnam(user).pw_uid
    assert list_owned({uid}), "the guest and its daemon outlive their owner"

    Sandbox((), parent=parent).close()

    assert list_owned({uid}) == []
    assert user not in _user_names()
    assert list(parent.iterdir()) == []


def test_guest_stops_at_once_where_nobody_collects_orphans(parent: Path) -> None:
    """Process 1 of a container may be anything; libvirt waits a minute for a QEMU that stays a zombie."""
    done = subprocess.run(
        [sys.executable, "-c", _CARELESS, sys.executable, "-c", _STOPPER, str(parent)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert float(done.stdout) < 5


def test_orphans_are_collected_and_our_own_children_are_not(sandbox: Sandbox) -> None:
    """A zombie keeps its process id: who asks for a dead daemon by its id is told that it lives."""
    alpha = sandbox.hosts["alpha"]
    script = "(exec setsid sleep 60) & (exec sleep 60) & echo $!; wait"
    ours = alpha.popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert ours.stdout is not None
    ours.stdout.readline()
    wait_until(lambda: len(_sleepers(alpha.uid)) == 2)
    orphans = _sleepers(alpha.uid)
    os.kill(ours.pid, signal.SIGKILL)

    for pid in orphans:
        os.kill(pid, signal.SIGKILL)

    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    assert Path(f"/proc/{ours.pid}").exists(), "ours waits for us to ask"
    assert ours.wait() == -signal.SIGKILL


def test_processes_of_containers_are_left_alone(sandbox: Sandbox) -> None:
    """A container's service may have the user id of one of our hosts; it is not ours to end."""
    uid = sandbox.hosts["beta"].uid
    service = ["setpriv", "--reuid", str(uid), "--clear-groups", "sh", "-c", "echo up; exec sleep 60"]
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *service],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as container:
        assert container.stdout is not None
        assert container.stderr is not None
        if not container.stdout.readline():
            pytest.skip(f"no namespaces on this machine: {container.stderr.read().decode().strip()}")
        try:
            contained = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().strip()
            end_owned({uid})
            assert Path(f"/proc/{contained}/comm").read_text() == "sleep\n"
        finally:
            container.kill()


def test_hosts_that_cannot_read_the_checkout_get_a_copy(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout in root's home is the usual place in CI, and no host may look into it."""
    hidden = parent / "hidden"
    hidden.mkdir(mode=0o700)
    for package in ("engine", "tasks", "scheduler", "cli"):
        (hidden / package).symlink_to(ROOT / package)
    monkeypatch.setattr("cli.sandbox.project.ROOT", hidden)
    try:
        with Sandbox(("gamma",), parent=parent) as sandbox:
            host = sandbox.hosts["gamma"]
            program = "import importlib.util, libvirt; print(importlib.util.find_spec('engine').origin)"
            origin = host.run([*host.python, "-c", program], cwd=host.home).stdout.strip()
    finally:
        for link in hidden.iterdir():
            link.unlink()
        hidden.rmdir()

    assert Path(origin).is_relative_to(sandbox.base)


def test_processes_that_will_not_die_are_named(sandbox: Sandbox) -> None:
    """A tear-down that cannot finish says so instead of waiting for ever."""
    alpha = sandbox.hosts["alpha"]
    sleeper = alpha.popen(["sleep", "60"])

    with pytest.raises(SandboxError, match=rf"{sleeper.pid} \(sleep\)"):
        end_owned({alpha.uid}, limit=-1)

    sleeper.kill()
    sleeper.wait()
