"""What goes wrong is one line on stderr and one exit code, and the guest never notices.

Each case runs here (`--local`, as the host's user) and as a job through broker and worker, where both make
sense.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from cli.demo.fleet import Fleet, open_fleet
from cli.sandbox import Guest, GuestSpec, Host, Sandbox

pytestmark = pytest.mark.e2e

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def fleet(sandbox: Sandbox) -> Iterator[Fleet]:
    """Give workers on both hosts with a broker and a catalog of their own."""
    with sandbox.redis() as broker, open_fleet(sandbox, broker, name="control-errors") as opened:
        opened.wait_hosts()
        yield opened


@dataclass(frozen=True)
class Runner:
    """One way to run a command on alpha."""

    is_local: bool
    host: Host
    fleet: Fleet

    def __call__(self, op: str, *arguments: str | Path, store: Path | None = None) -> Done:
        """Run it; save goes to the host's store unless told otherwise."""
        if not self.is_local:
            return self.fleet.run(op, *arguments, "--host", self.host.name)
        own = ("--store", store or self.host.store) if op == "save" else ()
        return self.host.fleetsave(op, *arguments, "--local", *own)


@pytest.fixture(params=["local", "job"])
def run(request: pytest.FixtureRequest, sandbox: Sandbox, fleet: Fleet) -> Runner:
    """Give both ways to run a command, one after the other."""
    return Runner(request.param == "local", sandbox.hosts["alpha"], fleet)


@pytest.fixture
def folder(sandbox: Sandbox) -> Iterator[Path]:
    """Give an empty folder of alpha's user below the store, where jobs may write, too."""
    host = sandbox.hosts["alpha"]
    made = host.store / f"folder-{uuid4().hex[:8]}"
    made.mkdir(mode=0o700)
    _give(made, host)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def untouched(steady_guest: Guest) -> Iterator[Guest]:
    """Give a running guest; afterwards it is the same run, counts on without a gap, and nothing is left."""
    yield from _watch(steady_guest)


def _watch(guest: Guest) -> Iterator[Guest]:
    host, run_id, left = guest.host, guest.host.virsh("domid", guest.name), _list_staging(guest.host)
    yield guest
    assert guest.state() == "running"
    assert host.virsh("domid", guest.name) == run_id
    guest.wait_counter_beyond(guest.counter())
    numbers = guest.counters()
    assert numbers == list(range(1, numbers[-1] + 1))
    assert _list_staging(host) == left


@pytest.fixture(scope="module")
def saved(sandbox: Sandbox) -> Iterator[tuple[Guest, Path]]:
    """Give a guest that was saved, and its restore point, which restores after all that was tried."""
    host = sandbox.hosts["alpha"]
    guest = host.define(GuestSpec(name=f"saved-{uuid4().hex[:8]}"))
    guest.start()
    guest.wait_counting()
    done = host.fleetsave("save", guest.name, "--local", "--store", host.store, "--json", check=True)
    point = Path(json.loads(done.stdout)["path"])
    before = guest.counter()
    yield guest, point
    host.fleetsave("restore", point, "--local", check=True)
    guest.wait_counter_beyond(before)
    guest.remove()


@pytest.fixture
def broken(
    saved: tuple[Guest, Path], folder: Path, sandbox: Sandbox
) -> Callable[[Callable[[Path], None]], Path]:
    """Give a function that copies the restore point, damages the copy's image and returns the copy."""

    def make(damage: Callable[[Path], None]) -> Path:
        copy = folder / "point"
        shutil.copytree(saved[1], copy)
        damage(copy / "memory.save")
        for path in (copy, *copy.iterdir()):
            _give(path, sandbox.hosts["alpha"])
        return copy

    return make


def _give(path: Path, host: Host) -> None:
    os.chown(path, host.uid, host.account.user.gid)


def _list_staging(host: Host) -> list[Path]:
    """Return what unfinished operations would leave, in the store and beside targets."""
    places = (host.store, host.home)
    return [
        *host.store.glob(".staging/*"),
        *(path for place in places for path in place.rglob(".fleetsave-*")),
    ]


def _assert_refused(done: Done, code: int, *words: str) -> None:
    """The exit code, and one line that names what it is about; no traceback, no second line."""
    assert done.returncode == code, done.stderr + done.stdout
    assert done.stderr.startswith("fleetsave: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_unknown_domain(run: Runner, untouched: Guest) -> None:
    """31, and no other guest is taken for it."""
    _assert_refused(run("save", f"{untouched.name}-other"), 31, untouched.name)


def test_shut_off_domain(run: Runner, guest_factory: Callable[..., Guest]) -> None:
    """33: there is no memory to save; it stays shut off."""
    guest = guest_factory()

    _assert_refused(run("save", guest.name), 33, guest.name, "shut off")
    assert guest.state() == "shut off"


def test_running_domain_is_not_started(run: Runner, untouched: Guest) -> None:
    """33: it runs already."""
    _assert_refused(run("start", untouched.name), 33, untouched.name)


def test_relative_target_is_the_caller_s_locally(running_guest: Guest) -> None:
    """The image lands in the working directory of the command, and restores from there."""
    host, name = running_guest.host, f"{uuid4().hex}.save"

    done = host.fleetsave("save", running_guest.name, "--local", "--to", name)

    assert done.returncode == 0, done.stderr
    assert (host.home / name).is_file()
    saved_at = running_guest.counter()
    host.fleetsave("restore", name, "--local", check=True)
    running_guest.wait_counter_beyond(saved_at)


def test_relative_target_of_a_job_is_the_caller_s_too(fleet: Fleet, untouched: Guest) -> None:
    """It travels as an absolute path, which the host does not allow: 23, and the line shows it."""
    done = fleet.run("save", untouched.name, "--host", "alpha", "--to", "image.save")

    _assert_refused(done, 23, str(fleet.folder))


def test_target_outside_the_allowed_directories(fleet: Fleet, untouched: Guest) -> None:
    """23: a job writes only where its host allows."""
    _assert_refused(
        fleet.run("save", untouched.name, "--host", "alpha", "--to", "/etc/image.save"), 23, "/etc"
    )


def test_source_outside_the_allowed_directories(fleet: Fleet) -> None:
    """23: nor does a job read elsewhere."""
    _assert_refused(fleet.run("restore", "/etc/passwd", "--host", "alpha"), 23, "/etc/passwd")


def test_missing_target_directory(run: Runner, untouched: Guest, folder: Path) -> None:
    """20, and it is not made in silence."""
    target = folder / "missing" / "image.save"

    _assert_refused(run("save", untouched.name, "--to", target), 20, str(target.parent))
    assert not target.parent.exists()


def test_target_directory_that_is_not_writable(run: Runner, untouched: Guest, folder: Path) -> None:
    """20, found out before the guest is paused."""
    folder.chmod(0o500)

    _assert_refused(run("save", untouched.name, "--to", folder / "image.save"), 20, str(folder))
    assert not list(folder.iterdir())


def test_target_directory_that_may_not_be_entered(run: Runner, untouched: Guest, folder: Path) -> None:
    """20 as well, for it and for what is below: nothing about it is unexpected."""
    folder.chmod(0o000)
    try:
        for target in (folder / "image.save", folder / "below" / "image.save"):
            _assert_refused(run("save", untouched.name, "--to", target), 20, str(target.parent))
    finally:
        folder.chmod(0o700)


def test_existing_target_is_kept(run: Runner, untouched: Guest, folder: Path, sandbox: Sandbox) -> None:
    """20, and the old file is what it was: nothing is ever overwritten."""
    target = folder / "image.save"
    target.write_text("precious")
    _give(target, sandbox.hosts["alpha"])

    _assert_refused(run("save", untouched.name, "--to", target), 20, str(target))
    assert target.read_text() == "precious"
    assert list(folder.iterdir()) == [target]


def test_missing_dxml_file(run: Runner, untouched: Guest, folder: Path) -> None:
    """20: the file is looked for where the command runs."""
    _assert_refused(run("save", untouched.name, "--dxml", folder / "none.xml"), 20, "none.xml")


def test_dxml_that_is_no_xml(run: Runner, untouched: Guest, sandbox: Sandbox) -> None:
    """10, before libvirt would have stopped the guest and then said so."""
    dxml = sandbox.hosts["alpha"].home / f"{uuid4().hex}.xml"
    dxml.write_text("this is no XML")
    dxml.chmod(0o644)

    _assert_refused(run("save", untouched.name, "--dxml", dxml), 10, "dxml")


def test_dxml_of_another_domain(run: Runner, untouched: Guest, sandbox: Sandbox) -> None:
    """11: an image is of one domain for ever."""
    host = sandbox.hosts["alpha"]
    dxml = host.home / f"{uuid4().hex}.xml"
    mine, other = str(untouched.spec.uuid), str(uuid4())
    dxml.write_text(host.virsh("dumpxml", "--migratable", untouched.name).replace(mine, other))
    dxml.chmod(0o644)

    _assert_refused(run("save", untouched.name, "--dxml", dxml), 11, other)


def test_running_and_paused_at_once(run: Runner, untouched: Guest) -> None:
    """2, as in libvirt: they exclude each other."""
    _assert_refused(run("save", untouched.name, "--running", "--paused"), 2, "--running", "--paused")


@pytest.mark.parametrize("size", [50, 92, 3000])
def test_image_cut_inside_its_head(
    run: Runner, saved: tuple[Guest, Path], broken: Callable[[Callable[[Path], None]], Path], size: int
) -> None:
    """12: it is part of an image, and no guest is started from it."""
    point = broken(lambda image: os.truncate(image, size))

    _assert_refused(run("restore", point), 12, str(point))
    assert saved[0].state() == "shut off"


def test_image_cut_inside_its_memory(
    run: Runner, saved: tuple[Guest, Path], broken: Callable[[Callable[[Path], None]], Path]
) -> None:
    """12: the manifest beside it says how long it must be."""
    point = broken(lambda image: os.truncate(image, image.stat().st_size - 4096))

    _assert_refused(run("restore", point), 12, str(point))
    assert saved[0].state() == "shut off"


def test_damaged_memory_never_runs(
    run: Runner, saved: tuple[Guest, Path], broken: Callable[[Callable[[Path], None]], Path]
) -> None:
    """13: one flipped bit in the middle, found before the guest runs."""

    def flip(image: Path) -> None:
        with image.open("r+b") as opened:
            opened.seek(image.stat().st_size // 2)
            byte = opened.read(1)[0]
            opened.seek(-1, os.SEEK_CUR)
            opened.write(bytes([byte ^ 1]))

    point = broken(flip)

    _assert_refused(run("restore", point), 13, str(point))
    assert saved[0].state() == "shut off"


def test_image_of_a_save_that_never_finished(
    run: Runner, saved: tuple[Guest, Path], broken: Callable[[Callable[[Path], None]], Path]
) -> None:
    """12: libvirt's mark of a partial image is believed."""

    def unmark(image: Path) -> None:
        with image.open("r+b") as opened:
            opened.write(b"LibvirtQemudPart")

    point = broken(unmark)

    _assert_refused(run("restore", point), 12, str(point))
    assert saved[0].state() == "shut off"


def test_file_that_is_no_image(run: Runner, folder: Path, sandbox: Sandbox) -> None:
    """10: whatever it is, it is no save image."""
    file = folder / "letter.txt"
    file.write_text("Dear operator,\n" * 1000)
    _give(file, sandbox.hosts["alpha"])

    _assert_refused(run("restore", file), 10, str(file))


def test_missing_image(run: Runner, folder: Path) -> None:
    """20: there is nothing to restore."""
    _assert_refused(run("restore", folder / "none.save"), 20, "none.save")


def test_restore_of_a_domain_that_runs(run: Runner, running_guest: Guest, folder: Path) -> None:
    """33: two guests of one domain would tear its disks apart."""
    host, image = running_guest.host, folder / "image.save"
    host.virsh("save", running_guest.name, image)
    host.virsh("restore", image)

    with contextmanager(_watch)(running_guest):
        _assert_refused(run("restore", image), 33, running_guest.name)


def test_libvirt_that_does_not_answer(untouched: Guest, sandbox: Sandbox) -> None:
    """30: the connection is named."""
    host, uri = sandbox.hosts["alpha"], "qemu+unix:///session?socket=/nonexistent"

    done = host.fleetsave("save", untouched.name, "--local", "--uri", uri, "--store", host.store)

    _assert_refused(done, 30, uri)


def test_redis_that_does_not_answer(fleet: Fleet, running_guest: Guest) -> None:
    """40: the job stays queued, the line names it, and the guest is left alone."""
    fleet.broker.stop()
    try:
        with contextmanager(_watch)(running_guest):
            done = fleet.run("save", running_guest.name, "--host", "alpha")
        listed = fleet.run("jobs", "list", "--domain", running_guest.name, "--json")
    finally:
        fleet.broker.start()

    jobs = json.loads(listed.stdout)["jobs"]
    assert [job["state"] for job in jobs] == ["queued"]
    _assert_refused(done, 40, jobs[0]["job_id"])


def test_error_with_json_is_the_one_document(run: Runner, untouched: Guest) -> None:
    """The same exit code, the object on stdout, nothing on stderr."""
    done = run("save", f"{untouched.name}-other", "--json")

    assert (done.returncode, done.stderr) == (31, "")
    error = json.loads(done.stdout)["error"]
    assert error.keys() >= {"class", "code", "libvirt_code", "message", "hint", "fields"}
    assert (error["class"], error["code"], error["libvirt_code"]) == ("NoDomainError", 31, 42)
