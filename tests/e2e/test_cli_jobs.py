"""The command line through broker and workers: what it does to guests, prints and returns."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.demo.fleet import Fleet, open_fleet
from cli.sandbox import Guest, Sandbox

pytestmark = pytest.mark.e2e

#: What DESIGN.md section 6 promises of the JSON of one finished operation.
RESULT_KEYS = {
    "op", "domain", "domain_uuid", "host", "path", "bytes", "duration_seconds", "guest_paused_seconds",
    "throughput_bytes_per_second", "was_running", "bypass_cache", "checksum", "dxml_changes", "data_path",
    "simulated", "job_id", "state",
}  # fmt: skip


@pytest.fixture(scope="module")
def fleet(sandbox: Sandbox) -> Iterator[Fleet]:
    """Give workers on both hosts with a broker and a catalog of their own."""
    with sandbox.redis() as broker, open_fleet(sandbox, broker, name="control-jobs") as opened:
        opened.wait_hosts()
        yield opened


@pytest.fixture
def pair(guest_factory: Callable[..., Guest], fleet: Fleet) -> tuple[Guest, Guest]:
    """Give a counting guest on alpha and one on beta, which the catalog knows."""
    guests = (guest_factory(host="alpha"), guest_factory(host="beta"))
    for guest in guests:
        guest.start()
    for guest in guests:
        guest.wait_counting()
    fleet.wait_domains({guest.name: "running" for guest in guests})
    return guests


def _json(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    """Return the one document on stdout."""
    assert done.returncode == code, done.stderr + done.stdout
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_two_hosts_are_saved_and_restored(fleet: Fleet, pair: tuple[Guest, Guest]) -> None:
    """One command, one job a domain, results in the order given; each guest goes on where it stopped."""
    names = [guest.name for guest in reversed(pair)]

    saved = _json(fleet.run("save", *names, "--json"))["results"]

    assert [one["domain"] for one in saved] == names
    assert [one["host"] for one in saved] == ["beta", "alpha"]
    for one in saved:
        assert one.keys() >= RESULT_KEYS
        assert one["job_state"] == "succeeded"
        assert one["bypass_cache"]["resident_bytes"] == 0
        assert one["bypass_cache"]["direct_bytes"] == one["bytes"]
    before = {guest.name: guest.counter() for guest in pair}
    for one in saved:
        point = Path(one["path"]).name
        listed = _json(fleet.run("points", "list", "--domain", one["domain"], "--json"))["points"]
        assert [(found["host"], Path(found["path"]).name) for found in listed] == [(one["host"], point)]
        restored = _json(fleet.run("restore", point, "--json"))
        assert (restored["domain"], restored["host"], restored["state"]) == (
            one["domain"],
            one["host"],
            "running",
        )
    for guest in pair:
        guest.wait_counter_beyond(before[guest.name])
        assert guest.counters() == list(range(1, guest.counter() + 1))


def test_points_are_listed_by_the_hosts_that_can_take_them(fleet: Fleet, running_guest: Guest) -> None:
    """Both hosts are alike: beta takes alpha's point, whose image stays on alpha; nobody was asked."""
    fleet.wait_domains({running_guest.name: "running"})
    saved = _json(fleet.run("save", running_guest.name, "--json"))

    listed = _json(
        fleet.run("points", "list", "--domain", running_guest.name, "--restorable-on", "beta", "--json")
    )["points"]
    hosts = _json(fleet.run("hosts", "list", "--json"))["hosts"]

    assert [(point["host"], point["path"]) for point in listed] == [("alpha", saved["path"])]
    assert [(point["restorable"], point["missing"]) for point in listed] == [(True, [])]
    assert {host["qemu_version"] for host in hosts} == {hosts[0]["qemu_version"]} != {None}


def test_managed_save_is_taken_up_by_start(fleet: Fleet, pair: tuple[Guest, Guest]) -> None:
    """Libvirt keeps the images; start continues each guest."""
    names = [guest.name for guest in pair]

    saved = _json(fleet.run("managed-save", *names, "--json"))["results"]
    before = {guest.name: guest.counter() for guest in pair}
    assert {guest.state() for guest in pair} == {"shut off"}
    fleet.wait_domains(dict.fromkeys(names, "shut off"))
    started = _json(fleet.run("start", *names, "--json"))["results"]

    assert [one["op"] for one in saved + started] == ["managed-save"] * 2 + ["start"] * 2
    for guest in pair:
        guest.wait_counter_beyond(before[guest.name])
        assert guest.counters() == list(range(1, guest.counter() + 1))


def test_one_that_fails_does_not_stop_the_rest(
    fleet: Fleet, running_guest: Guest, guest_factory: Callable[..., Guest]
) -> None:
    """Exit code 3: one saved, one shut off, one that nobody knows; each says which it is."""
    off = guest_factory(host="beta")
    fleet.wait_domains({running_guest.name: "running", off.name: "shut off"})
    unknown = f"{off.name}-other"

    results = _json(fleet.run("save", off.name, unknown, running_guest.name, "--json"), 3)["results"]

    assert [one.get("error", {}).get("code", 0) for one in results] == [33, 31, 0]
    assert [one["domain"] for one in results] == [off.name, unknown, running_guest.name]
    assert running_guest.state() == "shut off"


def test_all_that_fail_alike_give_their_own_code(fleet: Fleet, guest_factory: Callable[..., Guest]) -> None:
    """Two domains that are shut off: 33, and a line for each."""
    off = [guest_factory(host=host) for host in ("alpha", "beta")]
    fleet.wait_domains({guest.name: "shut off" for guest in off})

    done = fleet.run("save", *(guest.name for guest in off))

    assert done.returncode == 33
    assert all(guest.name in line for guest, line in zip(off, done.stderr.splitlines(), strict=True))


def test_pipe_gets_plain_lines(fleet: Fleet, running_guest: Guest) -> None:
    """One when it begins, one when it is done; no bars, no colours, no carriage returns."""
    fleet.wait_domains({running_guest.name: "running"})

    done = fleet.run("save", running_guest.name)

    assert (done.returncode, done.stderr) == (0, "")
    begun, ended = done.stdout.splitlines()
    assert begun.startswith(f"{running_guest.name}: save on alpha as job ")
    assert ended.startswith(f"{running_guest.name}: saved on alpha, ")
    assert all(line.isprintable() for line in (begun, ended))
    quiet = fleet.run("restore", ended.rpartition(": ")[2], "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_job_nobody_waited_for_can_be_watched_and_shown(fleet: Fleet, running_guest: Guest) -> None:
    """--no-wait prints the id; watch follows it; list and show tell what became of it."""
    fleet.wait_domains({running_guest.name: "running"})

    submitted = fleet.run("save", running_guest.name, "--no-wait")
    job_id = submitted.stdout.strip()
    watched = _json(fleet.run("jobs", "watch", job_id[:16], "--json"))["results"]

    assert (submitted.returncode, len(job_id)) == (0, 32)
    assert [(one["job_id"], one["job_state"]) for one in watched] == [(job_id, "succeeded")]
    listed = _json(fleet.run("jobs", "list", "--domain", running_guest.name, "--json"))["jobs"]
    assert [(job["job_id"], job["state"], job["op"]) for job in listed] == [(job_id, "succeeded", "save")]
    shown = _json(fleet.run("jobs", "show", job_id[:16], "--json"))
    assert shown["job"]["result"]["path"] == watched[0]["path"]
    steps = [event["body"].get("step") for event in shown["events"]]
    assert steps.index("opened") < steps.index("drained") < steps.index("published")
    text = fleet.run("jobs", "show", job_id).stdout
    assert all(word in text for word in (job_id, "succeeded", "drained", watched[0]["path"]))
    assert "succeeded" in fleet.run("jobs", "list", "--state", "succeeded").stdout


def test_unknown_job_is_a_usage_error(fleet: Fleet) -> None:
    """2, and where to look."""
    done = fleet.run("jobs", "show", "ffffffffffffffff")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "jobs list" in done.stderr


def test_hosts_and_domains_are_listed(fleet: Fleet, pair: tuple[Guest, Guest]) -> None:
    """What the hosts last reported, as a table and as JSON."""
    hosts = _json(fleet.run("hosts", "list", "--json"))["hosts"]
    domains = _json(fleet.run("domains", "list", "--host", "beta", "--json"))["domains"]

    assert [(host["name"], host["libvirt_up"]) for host in hosts] == [("alpha", True), ("beta", True)]
    assert {domain["host"] for domain in domains} == {"beta"}
    assert pair[1].name in {domain["name"] for domain in domains}
    table = fleet.run("hosts", "list").stdout
    assert "alpha" in table
    assert str(fleet.sandbox.hosts["beta"].store) in table


def test_interrupted_waiting_leaves_the_job_alone(fleet: Fleet, running_guest: Guest) -> None:
    """Ctrl-C: 130 and one line that says how to go on watching; the job runs to its end."""
    fleet.wait_domains({running_guest.name: "running"})
    worker = fleet.workers["alpha"].process
    worker.send_signal(signal.SIGSTOP)  # The job stays queued until we say so.
    try:
        with subprocess.Popen(
            fleet.argv("save", running_guest.name),
            env=fleet.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as waiting:  # fmt: skip
            assert waiting.stdout is not None
            begun = waiting.stdout.readline()
            waiting.send_signal(signal.SIGINT)
            _, errors = waiting.communicate(timeout=30)
    finally:
        worker.send_signal(signal.SIGCONT)

    assert waiting.returncode == 130
    job_id = begun.split()[-1]
    assert errors.count("\n") == 1
    assert f"fleetsave jobs watch {job_id[:12]}" in errors
    assert _json(fleet.run("jobs", "watch", job_id, "--json"))["results"][0]["job_state"] == "succeeded"


def test_interrupted_local_save_puts_the_guest_back(running_guest: Guest) -> None:
    """Ctrl-C with --local: 130, one line, the guest goes on, nothing is left behind."""
    host = running_guest.host
    arguments = ["save", running_guest.name, "--local", "--store", str(host.store)]
    with host.popen(
        [*host.python, "-m", "cli.main", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as saving:
        assert saving.stdout is not None
        saving.stdout.readline()
        saving.send_signal(signal.SIGINT)
        _, errors = saving.communicate(timeout=60)

    assert saving.returncode == 130, errors
    assert (errors.startswith("fleetsave: "), errors.count("\n")) == (True, 1)
    assert running_guest.state() == "running"
    running_guest.wait_counter_beyond(running_guest.counter())
    assert not list(host.store.glob(f".staging/*/{running_guest.spec.uuid}*"))
    assert not list(host.store.glob(f"{running_guest.spec.uuid}/*"))
