"""Simulated hosts: populations, faults, processes that die, a daemon that dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import Engine, list_domains
from engine.errors import EngineError, HypervisorError, HypervisorUnreachableError
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.sim.hypervisor import SimHypervisor
from engine.hypervisor.sim.owner import read_boot_id

ROOT = Path(__file__).parents[4]


def uri_of(folder: Path, *query: str) -> str:
    """Return the URI of a host with three small domains."""
    return f"sim://{folder}?" + "&".join(("domains=3", "memory=1MiB", "busy=300ms", *query))


@pytest.fixture
def host(tmp_path: Path) -> SimHypervisor:
    """Give a host with three domains that run."""
    return SimHypervisor(uri_of(tmp_path))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def image_of(host: SimHypervisor, folder: Path) -> str:
    """Save the first domain into a file."""
    path = str(folder / "image")
    host.save(host.find_domain("sim-0000").uuid, path, None, 0)
    return path


def test_thousand_domains_are_listed_in_no_time(tmp_path: Path) -> None:
    """By the engine, XML and all, in one process; a save of one takes no time either."""
    uri = f"sim://{tmp_path}?domains=1000&memory=1MiB"
    SimHypervisor(uri).close()

    began = time.monotonic()
    found = list_domains(uri)
    listed = time.monotonic()
    with Engine(uri, runtime_dir=tmp_path / "run", store=tmp_path / "store") as engine:
        outcome = engine.save("sim-0500")

    assert len(found) == 1000
    assert listed - began < 2
    assert outcome.duration_seconds < 0.3
    assert outcome.simulated


def test_population_follows_from_the_settings(tmp_path: Path) -> None:
    """The same seed gives the same UUIDs; a part of them runs; a host is populated once."""
    hosts = [SimHypervisor(uri_of(tmp_path / name, "running=0.34")) for name in ("a", "b")]
    other = SimHypervisor(uri_of(tmp_path / "c", "seed=2", "host=beta"))

    uuids = [[domain.uuid for domain in host.list_domains()] for host in hosts]
    assert uuids[0] == uuids[1]
    assert {domain.uuid for domain in other.list_domains()}.isdisjoint(uuids[0])
    assert [domain.state for domain in hosts[0].list_domains()] == ["running", "shut off", "shut off"]
    assert other.list_domains()[0].name == "beta-0000"
    again = SimHypervisor(uri_of(tmp_path / "a", "domains=50"))
    assert len(again.list_domains()) == 3


def test_guest_outlives_every_process(tmp_path: Path) -> None:
    """It counts on while nobody is connected."""
    first = SimHypervisor(uri_of(tmp_path))
    uuid = first.find_domain("sim-0000").uuid
    before = first.counter(uuid)
    first.close()
    second = SimHypervisor(uri_of(tmp_path))

    wait_for(lambda: second.counter(uuid) > before)
    assert second.find_domain(uuid).run_id == 1


@pytest.mark.parametrize("point", ["paused", "opened", "head", "memory", "closed", "reopened"])
def test_fault_of_a_save_puts_the_guest_back(tmp_path: Path, point: str) -> None:
    """With the number that was asked for; no file is left where none was."""
    host = SimHypervisor(uri_of(tmp_path, f"fault=save.{point}:error=38,domain=sim-0000"))
    before = host.find_domain("sim-0000")

    with pytest.raises(EngineError, match="simulated fault") as caught:
        image_of(host, tmp_path)

    assert caught.value.libvirt_code == 38
    assert host.find_domain("sim-0000") == before
    assert not (tmp_path / "image").exists()
    host.save(host.find_domain("sim-0001").uuid, str(tmp_path / "image"), None, 0)


@pytest.mark.parametrize("point", ["opened", "head", "closed", "reopened", "memory", "loaded"])
def test_fault_of_a_restore_leaves_no_guest(tmp_path: Path, point: str) -> None:
    """And the image as it was."""
    host = SimHypervisor(uri_of(tmp_path, f"fault=restore.{point}:error=1"))
    image = image_of(host, tmp_path)

    with pytest.raises(HypervisorError):
        host.restore(image, None, 0)

    assert host.find_domain("sim-0000").state == "shut off"
    SimHypervisor(uri_of(tmp_path)).restore(image, None, 0)


def test_pause_that_is_not_undone(tmp_path: Path) -> None:
    """As when libvirt cannot resume after a failed save: the first error is told, the guest stays paused."""
    host = SimHypervisor(uri_of(tmp_path, "fault=save.memory:error=9", "fault=save.resume:error=1"))

    with pytest.raises(HypervisorError) as caught:
        image_of(host, tmp_path)

    found = host.find_domain("sim-0000")
    assert caught.value.libvirt_code == 9
    assert (found.state, found.is_paused_by_user, found.running_job) == ("paused", False, "")


def test_error_after_the_guest_has_gone(tmp_path: Path) -> None:
    """As when libvirt stumbles while cleaning up: the image is whole, and all there is."""
    host = SimHypervisor(uri_of(tmp_path, "fault=save.ended:error=1"))

    with pytest.raises(HypervisorError):
        image_of(host, tmp_path)

    assert host.find_domain("sim-0000").state == "shut off"
    host.restore(str(tmp_path / "image"), None, 0)


def test_guest_that_dies_in_mid_stream(tmp_path: Path) -> None:
    """It is gone, and so is its file."""
    host = SimHypervisor(uri_of(tmp_path, "fault=save.memory:death"))

    with pytest.raises(HypervisorError, match="quit"):
        image_of(host, tmp_path)

    assert host.find_domain("sim-0000").state == "shut off"
    assert not (tmp_path / "image").exists()


def test_fault_strikes_so_often_and_no_more(tmp_path: Path) -> None:
    """Counted for all connections together."""
    query = "fault=save.head:error=38,times=2"
    for _ in range(2):
        with pytest.raises(EngineError):
            image_of(SimHypervisor(uri_of(tmp_path, query)), tmp_path)

    image_of(SimHypervisor(uri_of(tmp_path, query)), tmp_path)


def test_faults_come_and_go_with_the_file(host: SimHypervisor, tmp_path: Path) -> None:
    """A hang ends when its line is taken away; meanwhile everybody sees the guest paused."""
    faults = tmp_path / "sim/faults"
    faults.write_text("# all of them\nsave.memory:hang\n")
    uuid = host.find_domain("sim-0000").uuid
    call = HypervisorCall(lambda: host.save(uuid, str(tmp_path / "image"), None, 0))
    call.start()
    other = SimHypervisor(uri_of(tmp_path))

    wait_for(lambda: other.find_domain(uuid).state == "paused")
    assert other.find_domain(uuid).running_job == "save"
    assert not call.has_returned
    faults.unlink()

    assert call.wait(10)
    assert call.error is None
    assert other.find_domain(uuid).state == "shut off"


def test_hang_ends_when_the_guest_does(tmp_path: Path) -> None:
    """Somebody destroys the domain: the save fails, and nothing comes back."""
    host = SimHypervisor(uri_of(tmp_path, "fault=save.memory:hang"))
    uuid = host.find_domain("sim-0000").uuid
    call = HypervisorCall(lambda: host.save(uuid, str(tmp_path / "image"), None, 0))
    call.start()
    wait_for(lambda: host.find_domain(uuid).running_job == "save")

    SimHypervisor(uri_of(tmp_path)).destroy(uuid)

    assert call.wait(10)
    assert call.error is not None
    assert host.find_domain(uuid).state == "shut off"


def test_dead_daemon_takes_connections_and_jobs_but_no_guests(tmp_path: Path) -> None:
    """It stays away for a while; then every connection is made anew and finds the guest running."""
    bystander = SimHypervisor(uri_of(tmp_path))
    host = SimHypervisor(uri_of(tmp_path, "fault=save.memory:crash=200ms"))
    (tmp_path / "image").touch()

    with pytest.raises(HypervisorUnreachableError) as caught:
        image_of(host, tmp_path)
    for call in (host.list_domains, bystander.list_domains, lambda: SimHypervisor(uri_of(tmp_path))):
        with pytest.raises(HypervisorUnreachableError) as away:
            call()
        assert away.value.is_transient

    def is_back() -> bool:
        try:
            return bool(bystander.list_domains())
        except HypervisorUnreachableError:
            return False

    assert caught.value.libvirt_code == 38
    wait_for(is_back)
    for connection in (host, bystander):
        assert connection.find_domain("sim-0000").state == "running"
    assert (tmp_path / "image").read_bytes()[:16] == b"LibvirtQemudPart"


_SAVE = """
import sys
from engine.hypervisor.sim.hypervisor import SimHypervisor
host = SimHypervisor(sys.argv[1])
host.{call}
"""


@pytest.mark.parametrize(
    ("fault", "call", "state"),
    [
        ("save.memory", "save(host.find_domain('sim-0000').uuid, sys.argv[2], None, 0)", "running"),
        ("save.reopened", "save(host.find_domain('sim-0000').uuid, sys.argv[2], None, 0)", "running"),
        ("restore.memory", "restore(sys.argv[2], None, 0)", "shut off"),
    ],
)
def test_process_killed_in_the_middle(tmp_path: Path, fault: str, call: str, state: str) -> None:
    """Nobody has to put anything right: the next to look finds what libvirt would have left."""
    host = SimHypervisor(uri_of(tmp_path))
    if state == "shut off":
        image_of(host, tmp_path)
    uuid = host.find_domain("sim-0000").uuid
    before = host.counter(uuid)
    argv = [sys.executable, "-c", _SAVE.format(call=call), uri_of(tmp_path, f"fault={fault}:hang")]
    process = subprocess.Popen([*argv, str(tmp_path / "image")], stdin=subprocess.DEVNULL, cwd=ROOT)
    try:
        wait_for(lambda: any(_has_job(tmp_path)))
        time_of_pause = [what for _, what in host.pauses(uuid)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    found = host.find_domain(uuid)
    assert (found.state, found.running_job) == (state, "")
    if state == "running":
        assert time_of_pause == ["paused"]
        assert [what for _, what in host.pauses(uuid)] == ["paused", "resumed"]
        wait_for(lambda: host.counter(uuid) > before)


def _has_job(folder: Path) -> list[bool]:
    """Look at the state files themselves: looking through the host would wait for the domain's lock."""
    files = [path for path in (folder / "sim/domains").iterdir() if not path.name.startswith(".")]
    return ['"state": "paused"' in path.read_text() for path in files]


def test_domain_at_its_gate_keeps_others_waiting(tmp_path: Path) -> None:
    """As libvirt does, which holds the domain's lock there; the wait here has an end."""
    host = SimHypervisor(uri_of(tmp_path, "fault=save.reopened:hang=1s"))
    uuid = host.find_domain("sim-0000").uuid
    call = HypervisorCall(lambda: host.save(uuid, str(tmp_path / "image"), None, 0))
    other = SimHypervisor(uri_of(tmp_path))
    call.start()
    wait_for(lambda: (tmp_path / "image").exists() and '"holds_lock": true' in _state_of(tmp_path, uuid))

    with pytest.raises(EngineError) as caught:
        other.find_domain(uuid)

    assert caught.value.libvirt_code == 68
    assert other.find_domain("sim-0001").state == "running"
    assert call.wait(10)
    assert call.error is None


def _state_of(folder: Path, uuid: str) -> str:
    return (folder / "sim/domains" / uuid).read_text()


def test_rate_and_latency_are_kept(tmp_path: Path) -> None:
    """A megabyte at four a second, and a call over a slow network."""
    host = SimHypervisor(uri_of(tmp_path, "rate=4MiB/s", "latency=30ms"))
    began = time.monotonic()
    host.versions()
    called = time.monotonic()
    image_of(host, tmp_path)

    assert 0.03 <= called - began < 0.25
    assert 0.25 <= time.monotonic() - called < 1.0


def test_many_processes_change_one_host(tmp_path: Path) -> None:
    """Each defines and starts its own: none is lost, and no number of a run is given twice."""
    host = SimHypervisor(uri_of(tmp_path))
    script = (
        "import sys\nfrom engine.hypervisor.sim.hypervisor import SimHypervisor\n"
        "host = SimHypervisor(sys.argv[1])\n"
        "for number in range(30):\n"
        "    xml = f'<domain><name>{sys.argv[2]}-{number}</name><memory>1024</memory></domain>'\n"
        "    host.start(host.define(xml).uuid, 0)\n"
    )
    argv = [sys.executable, "-c", script, uri_of(tmp_path)]
    running = [
        subprocess.Popen([*argv, name], stdin=subprocess.DEVNULL, cwd=ROOT) for name in ("a", "b", "c")
    ]

    assert [process.wait(timeout=30) for process in running] == [0, 0, 0]
    found = host.list_domains()
    assert len(found) == 93
    assert len({domain.run_id for domain in found}) == 93
    assert {domain.state for domain in found} == {"running"}


def test_name_of_another_domain_is_taken(host: SimHypervisor) -> None:
    """Neither a name nor a UUID can belong to two."""
    first = host.find_domain("sim-0000")
    for name, uuid in (("sim-0000", "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"), ("other", first.uuid)):
        with pytest.raises(HypervisorError) as caught:
            host.define(f"<domain type='sim'><name>{name}</name><uuid>{uuid}</uuid></domain>")
        assert caught.value.libvirt_code == 9


def test_other_boot_has_no_guests(host: SimHypervisor, tmp_path: Path) -> None:
    """Persistent domains are shut off then."""
    for path in (tmp_path / "sim/domains").iterdir():
        path.write_text(path.read_text().replace(read_boot_id(), "an earlier boot"))

    assert {domain.state for domain in host.list_domains()} == {"shut off"}
