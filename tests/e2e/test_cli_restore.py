"""fleetsave restore: tried out first, and as a copy by rules, through a worker as by hand."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from cli.demo.fleet import Fleet, open_fleet
from cli.sandbox import Guest, Sandbox

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def fleet(sandbox: Sandbox) -> Iterator[Fleet]:
    """Give workers on both hosts with a broker and a catalog of their own."""
    with sandbox.redis() as broker, open_fleet(sandbox, broker, name="control-restore") as opened:
        opened.wait_hosts()
        yield opened


@pytest.fixture
def place(sandbox: Sandbox) -> Path:
    """Give an empty folder of alpha's user below the store, where jobs may write, too."""
    host = sandbox.hosts["alpha"]
    made = host.store / f"place-{uuid4().hex[:8]}"
    made.mkdir(mode=0o700)
    os.chown(made, host.uid, host.account.user.gid)
    return made


@pytest.fixture
def rules(place: Path, tmp_path: Path) -> Path:
    """Give a file of rules that lead a copy's serial line into the place."""
    file = tmp_path / "rules.toml"
    file.write_text(f'[[serial]]\nset = {{ type = "file", path = "{place}/copy.log", append = true }}\n')
    file.chmod(0o644)
    tmp_path.chmod(0o755)
    return file


def test_dry_run_starts_nothing_and_names_all(steady_guest: Guest, place: Path) -> None:
    """Of an image whose guest runs: that stands in the way, all else fits."""
    host, image = steady_guest.host, place / "a.save"
    assert host.fleetsave("checkpoint", steady_guest.name, "--local", "--to", image).returncode == 0

    done = host.fleetsave("restore", image, "--local", "--dry-run", "--json")

    found = json.loads(done.stdout)
    verdicts = {one["name"]: one["verdict"] for one in found["findings"]}
    assert done.returncode == 33
    assert verdicts == {"image": "ok", "dxml": "ok", "domain": "error", "machine": "ok", "disks": "ok"}
    assert (found["dry_run"], found["op"], found["path"]) == (True, "restore", str(image))
    shown = host.fleetsave("restore", image, "--local", "--dry-run")
    assert "already active" in " ".join(shown.stdout.split())
    assert "estimate: none" in shown.stdout
    steady_guest.wait_counting()


def test_dry_run_of_a_copy_shows_its_changes(steady_guest: Guest, place: Path, rules: Path) -> None:
    """Nothing stands in its way; what its XML says otherwise is listed, value by value."""
    host, image = steady_guest.host, place / "a.save"
    host.fleetsave("checkpoint", steady_guest.name, "--local", "--to", image)
    words = ("restore", image, "--as", "copy-x", "--local", "--dry-run")
    own_rules = host.home / f"rules-{uuid4().hex[:8]}.toml"
    own_rules.write_text(rules.read_text())

    done = host.fleetsave(*words, "--rewrite", own_rules, "--json")

    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert found["domain"] == "copy-x"
    assert found["estimate"]["bytes"] == image.stat().st_size
    changes = {change["xpath"]: change["new"] for change in found["dxml_changes"]}
    assert changes["/domain/name[1]/text()"] == "copy-x"
    assert f"{place}/copy.log" in changes.values()
    shown = host.fleetsave(*words).stdout
    assert "dxml: /domain/name[1]/text(): " in shown
    assert "copy-x" not in host.domain_names()


def test_copy_through_a_worker(
    fleet: Fleet, guest_factory: Callable[..., Guest], place: Path, rules: Path
) -> None:
    """The rules travel with the job; its original runs on, and may have a job of its own meanwhile."""
    guest = guest_factory()
    guest.start()
    guest.wait_counting()
    made = json.loads(fleet.run("checkpoint", guest.name, "--host", "alpha", "--json").stdout)
    name = f"copy-{uuid4().hex[:8]}"

    done = fleet.run("restore", made["path"], "--host", "alpha", "--as", name, "--rewrite", rules, "--json")

    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (found["domain"], found["state"]) == (name, "running")
    spec = replace(guest.spec, name=name, uuid=UUID(found["domain_uuid"]))
    copy = replace(guest, spec=spec, serial=place / "copy.log")
    copy.wait_counting()
    guest.wait_counting()
    again = fleet.run("restore", made["path"], "--host", "alpha", "--as", name, "--rewrite", rules, "--json")
    assert again.returncode == json.loads(again.stdout)["error"]["code"] == 33
    guest.host.virsh("destroy", name)


def test_rules_that_are_none_are_refused_before_anything(
    fleet: Fleet, steady_guest: Guest, tmp_path: Path
) -> None:
    """10, with the rule and the key; as 2 where a dxml is given, too."""
    bad = tmp_path / "bad.toml"
    bad.write_text("[[disk]]\nplace = 1\n")

    done = fleet.run("save", steady_guest.name, "--host", "alpha", "--rewrite", bad)
    both = fleet.run("save", steady_guest.name, "--host", "alpha", "--rewrite", bad, "--dxml", bad)

    assert done.returncode == 10
    assert "place" in done.stderr
    assert both.returncode == 2
    assert steady_guest.state() == "running"
