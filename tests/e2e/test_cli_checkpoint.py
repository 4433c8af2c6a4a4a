"""Checkpoints, core dumps, ways to write and trying out, on the command line, here and through workers."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cli.demo.fleet import Fleet, open_fleet
from cli.sandbox import Guest, Host, Sandbox
from engine import image_info

pytestmark = pytest.mark.e2e

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def fleet(sandbox: Sandbox) -> Iterator[Fleet]:
    """Give workers on both hosts with a broker and a catalog of their own."""
    with sandbox.redis() as broker, open_fleet(sandbox, broker, name="control-checkpoint") as opened:
        opened.wait_hosts()
        yield opened


@dataclass(frozen=True)
class Runner:
    """One way to run a command on alpha."""

    is_local: bool
    host: Host
    fleet: Fleet

    def __call__(self, *words: str | Path) -> Done:
        """Run it with --json."""
        if self.is_local:
            return self.host.fleetsave(*words, "--local", "--json")
        return self.fleet.run(*words, "--host", self.host.name, "--json")

    def result(self, *words: str | Path) -> dict[str, Any]:
        """Run it and return what it says of its success."""
        done = self(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def error(self, *words: str | Path) -> dict[str, Any]:
        """Run it and return what it says of its failure; the exit code is the error's."""
        done = self(*words)
        found = json.loads(done.stdout)
        assert done.returncode != 0, found
        error: dict[str, Any] = found["error"]
        assert done.returncode == error["code"]
        return error


@pytest.fixture(params=["local", "job"])
def run(request: pytest.FixtureRequest, sandbox: Sandbox, fleet: Fleet) -> Runner:
    """Give both ways to run a command, one after the other."""
    return Runner(request.param == "local", sandbox.hosts["alpha"], fleet)


@pytest.fixture
def place(sandbox: Sandbox) -> Path:
    """Give an empty folder of alpha's user below the store, where jobs may write, too."""
    host = sandbox.hosts["alpha"]
    made = host.store / f"place-{uuid4().hex[:8]}"
    made.mkdir(mode=0o700)
    os.chown(made, host.uid, host.account.user.gid)
    return made


def test_checkpoint_leaves_the_guest_running_and_restores(
    run: Runner, running_guest: Guest, place: Path
) -> None:
    """The guest counts on; its copy, started after its end, goes on from the checkpoint."""
    image = place / "a.save"

    made = run.result("checkpoint", running_guest.name, "--to", image, "--max-guest-pause", "30s")

    assert (made["op"], made["state"], made["path"]) == ("checkpoint", "running", str(image))
    assert made["bypass_cache"]["resident_bytes"] == 0
    at = running_guest.counter()
    running_guest.wait_counter_beyond(at + 1)
    running_guest.host.virsh("destroy", running_guest.name)
    printed = len(running_guest.counters())
    run.result("restore", image)
    running_guest.wait_counting()
    assert running_guest.counters()[printed] <= at + 1


def test_checkpoint_that_would_pause_the_guest_for_too_long_is_given_up(
    run: Runner, steady_guest: Guest, place: Path
) -> None:
    """75: the guest goes on, and nothing is left."""
    error = run.error("checkpoint", steady_guest.name, "--to", place / "a.save", "--max-guest-pause", "1ms")

    assert (error["class"], error["code"]) == ("TryAgainError", 75)
    assert list(place.iterdir()) == []
    steady_guest.wait_state("running", timeout=10)
    steady_guest.wait_counting()


def test_checkpoint_into_the_store_is_a_restore_point(fleet: Fleet, steady_guest: Guest) -> None:
    """The catalog knows it, as it knows those of saves."""
    done = fleet.run("checkpoint", steady_guest.name, "--host", "alpha", "--json")
    assert done.returncode == 0, done.stdout

    listed = fleet.run("points", "list", "--json")
    paths = [point["path"] for point in json.loads(listed.stdout)["points"]]
    assert json.loads(done.stdout)["path"] in paths


@pytest.mark.parametrize(
    ("options", "form"),
    [
        (("--compress", "zstd:1", "--bandwidth", "500MiB/s"), "zstd"),
        (("--data-path", "native"), "raw"),
        (("--data-path", "native", "--image-format", "sparse", "--channels", "2"), "sparse"),
    ],
)
def test_image_is_written_as_the_options_say(
    run: Runner, running_guest: Guest, place: Path, options: tuple[str, ...], form: str
) -> None:
    """And is restored from that."""
    image = place / "a.save"
    before = running_guest.counter()

    saved = run.result("save", running_guest.name, "--to", image, *options)

    assert saved["data_path"] == ("native" if "native" in options else "stream")
    assert image_info(image).format == form
    run.result("restore", image, *(("--data-path", "native") if form == "sparse" else ()))
    running_guest.wait_counter_beyond(before)


@pytest.mark.parametrize(
    ("options", "magic"),
    [
        (("--memory-only",), b"\x7fELF"),
        (("--memory-only", "--format", "kdump-zlib"), b"makedumpfile"),
        (("--live", "--memory-only", "--bypass-cache", "prefer"), b"\x7fELF"),
    ],
)
def test_dump_is_a_core_file_and_the_guest_goes_on(
    run: Runner, steady_guest: Guest, place: Path, options: tuple[str, ...], magic: bytes
) -> None:
    """In the format that was asked for, private to its owner."""
    core = place / "a.core"

    made = run.result("dump", steady_guest.name, "--to", core, *options)

    assert (made["op"], made["path"], made["bytes"]) == ("dump", str(core), core.stat().st_size)
    assert core.read_bytes()[: len(magic)] == magic
    assert core.stat().st_mode & 0o077 == 0
    steady_guest.wait_state("running", timeout=10)
    steady_guest.wait_counting()


def test_dump_that_crashes_the_guest(run: Runner, running_guest: Guest, place: Path) -> None:
    """--crash is the one way to have it end."""
    run.result("dump", running_guest.name, "--to", place / "a.core", "--memory-only", "--crash")

    running_guest.wait_state("shut off", timeout=10)


def test_managed_save_image_is_thrown_away(run: Runner, running_guest: Guest) -> None:
    """The next start boots: the guest counts from 1 again; there is nothing to throw away twice."""
    run.result("managed-save", running_guest.name)

    removed = run.result("managed-save", running_guest.name, "--remove")

    assert (removed["op"], removed["bytes"], removed["path"]) == ("managed-save-remove", 0, "")
    assert run.error("managed-save", running_guest.name, "--remove")["code"] == 33
    count = len(running_guest.counters())
    run.result("start", running_guest.name)
    running_guest.wait_counting()
    assert running_guest.counters()[count] == 1


def test_autodestroy_in_a_job_is_refused(fleet: Fleet, running_guest: Guest) -> None:
    """The guest would end with the job's connection: 2, and how it can be had."""
    done = fleet.run("start", running_guest.name, "--host", "alpha", "--autodestroy")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--local" in done.stderr


def _look(folder: Path) -> list[tuple[str, int, int]]:
    """Return what is below a folder, with sizes and times of change."""
    return sorted(
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    )


@pytest.mark.parametrize("op", ["save", "checkpoint"])
def test_dry_run_touches_nothing(steady_guest: Guest, place: Path, op: str) -> None:
    """Not the guest, not the disk; it says how much it would take."""
    host, name = steady_guest.host, steady_guest.name
    run_id, before = host.virsh("domid", name), _look(host.store)
    numbers = steady_guest.counters()

    done = host.fleetsave(op, name, "--local", "--to", place / "a.save", "--dry-run", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["dry_run"], found["op"], found["domain"]) == (True, op, name)
    assert {one["verdict"] for one in found["findings"]} == {"ok"}
    assert {one["name"] for one in found["findings"]} == {"target", "domain", "bypass", "space"}
    estimate = found["estimate"]
    assert 16 * 2**20 < estimate["bytes"] <= 128 * 2**20 + 64 * 2**20
    assert estimate["seconds"] > 0
    assert estimate["guest_paused_seconds"] > 0
    assert _look(host.store) == before
    assert host.virsh("domid", name) == run_id
    assert not list((host.runtime_dir / "fleetsave").glob("jobs/*"))
    steady_guest.wait_counting()
    after = steady_guest.counters()
    assert after[len(numbers) :] == list(range(numbers[-1] + 1, after[-1] + 1))


def test_dry_run_names_everything_that_stands_in_the_way(steady_guest: Guest, place: Path) -> None:
    """Not only the first: the exit code is the first one's, each has its hint."""
    host = steady_guest.host
    dxml = host.home / "no.xml"
    dxml.write_text("<domain")
    (place / "a.save").touch()
    words = (steady_guest.name, "--local", "--to", place / "a.save", "--dxml", dxml, "--dry-run")

    done = host.fleetsave("save", *words, "--json")

    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 20
    assert {name for name, one in found.items() if one["verdict"] == "error"} == {"target", "dxml"}
    assert found["dxml"]["error"]["code"] == 10
    assert found["target"]["error"]["hint"]

    shown = host.fleetsave("save", *words)
    assert shown.returncode == 20
    assert "what to do" in shown.stdout
    assert "nothing was touched" in shown.stdout
    assert "estimate: none" in shown.stdout


def test_dry_run_of_several_domains(steady_guest: Guest) -> None:
    """One answer each; one that cannot be saved makes it 3, as of the save itself."""
    host = steady_guest.host
    words = (steady_guest.name, "no-such-domain", "--local", "--store", host.store, "--dry-run", "--json")

    done = host.fleetsave("save", *words)

    results = json.loads(done.stdout)["results"]
    assert done.returncode == 3
    assert [one["domain"] for one in results] == [steady_guest.name, "no-such-domain"]
    assert results[1]["estimate"]["bytes"] is None


def test_dry_run_through_a_worker_is_not_supported(fleet: Fleet, steady_guest: Guest) -> None:
    """34, and how it can be had."""
    done = fleet.run("save", steady_guest.name, "--dry-run")

    assert (done.returncode, done.stdout) == (34, "")
    assert "--local" in done.stderr


def test_doctor_of_a_host_that_is_not_well(sandbox: Sandbox, place: Path) -> None:
    """Each finding has its verdict and what to do; the exit code is the first one's.

    The place belongs to another host's user, who lets nobody in.
    """
    host = sandbox.hosts["beta"]
    open_store = host.home / "open"
    host.run(["mkdir", "-m", "0755", open_store])

    done = host.fleetsave("doctor", "--store", open_store)
    assert done.returncode == 20
    assert f"chmod 700 {open_store}" in done.stdout

    assert host.fleetsave("doctor", "--store", place / "none").returncode == 20
    unreachable = "qemu+unix:///session?socket=/nonexistent"
    done = host.fleetsave("doctor", "--store", host.store, "--uri", unreachable, "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 30
    assert found["libvirt"]["error"]["code"] == 30
    assert found["page cache"]["verdict"] == "ok"


def test_doctor_reads_the_host_s_settings(fleet: Fleet) -> None:
    """Of the worker on this host: its store, its libvirt, its runtime directory."""
    worker = fleet.workers["alpha"]
    host = worker.host

    done = host.fleetsave("doctor", "--json", env={"FLEETSAVE_CONFIG": str(worker.config)})

    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert (found["store"], found["uri"]) == (str(host.store), host.uri)
    assert found["runtime_dir"] == str(host.runtime_dir / "fleetsave")


def test_doctor_names_a_mistake_in_the_settings(sandbox: Sandbox) -> None:
    """A finding like any other; the rest is looked at all the same."""
    host = sandbox.hosts["beta"]
    config = host.home / "wrong.toml"
    config.write_text("[host]\nstoer = '/x'\n")

    done = host.fleetsave("doctor", "--json", env={"FLEETSAVE_CONFIG": str(config)})

    found = json.loads(done.stdout)["findings"]
    assert done.returncode == 2
    assert (found[0]["name"], found[0]["error"]["class"]) == ("settings", "ConfigError")
    assert "libvirt" in {one["name"] for one in found}
