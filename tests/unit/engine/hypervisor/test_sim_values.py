"""URIs, faults, states and owners of the simulated hypervisor: text and values."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import libvirt as real
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, HypervisorError, ImageFormatError, InvalidArgumentError
from engine.hypervisor import libvirt as libvirt_driver
from engine.hypervisor.sim.codes import ERRORS
from engine.hypervisor.sim.domain import SimDomain, parse_domain
from engine.hypervisor.sim.faults import ACTIONS, POINTS, parse_duration, parse_fault
from engine.hypervisor.sim.job import new_job
from engine.hypervisor.sim.machine import check_abi, make_xml, read_machine
from engine.hypervisor.sim.memory import MemoryWriter, load_memory
from engine.hypervisor.sim.owner import Owner, read_boot_id
from engine.hypervisor.sim.settings import parse_uri
from engine.units import KiB, MiB

UUID = "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"
DOMAIN = SimDomain(name="web-1", uuid=UUID, definition="<domain/>", memory_bytes=MiB)
RUNNING = DOMAIN.started(run_id=3, boot_id=read_boot_id(), live="<live/>").resumed(100.0)


def test_numbers_mean_the_same_class_as_with_libvirt() -> None:
    """Both drivers raise the same class for the same number."""
    assert ERRORS == libvirt_driver._ERRORS
    assert real.VIR_ERR_INTERNAL_ERROR not in ERRORS


def test_uri_with_everything() -> None:
    """Each key has its place."""
    found = parse_uri(
        "sim:///var/x?host=alpha&domains=1000&memory=2MiB&running=0.5&seed=7&latency=5ms&rate=200MiB/s"
        "&busy=1s&fault=save.memory:error=38,domain=web-*,times=1&fault=connect.call:hang"
    )

    assert found.directory == Path("/var/x/alpha")
    assert (found.domains, found.memory_bytes, found.running, found.seed) == (1000, 2 * MiB, 0.5, 7)
    assert (found.latency_seconds, found.rate, found.busy_seconds) == (0.005, 200 * MiB, 1.0)
    assert [fault.action for fault in found.faults] == ["error", "hang"]


@pytest.mark.parametrize(
    "uri",
    [
        "sim://", "sim:///", "sim://host/dir", "qemu:///system", "sim:///x?bogus=1", "sim:///x?domains=many",
        "sim:///x?memory=1parsec", "sim:///x?latency=5", "sim:///x?host=", "sim:///x?host=../y",
        "sim:///x?fault=save.memory", "sim:///x?fault=bogus.call:error", "sim:///x?fault=save.bogus:error",
        "sim:///x?fault=save.memory:bogus", "sim:///x?fault=save.memory:error=x",
        "sim:///x?fault=save.memory:error,bogus=1", "sim:///x?fault=save.memory:error,times=x",
    ],
)  # fmt: skip
def test_uri_that_makes_no_sense(uri: str) -> None:
    """Refused at once: a fault with a typing mistake would prove nothing."""
    with pytest.raises(InvalidArgumentError):
        parse_uri(uri)


@given(st.sampled_from([(op, point) for op in POINTS for point in POINTS[op]]), st.sampled_from(ACTIONS))
def test_fault_strikes_its_point_and_domain_alone(place: tuple[str, str], action: str) -> None:
    """Whatever the point."""
    fault = parse_fault(f"{place[0]}.{place[1]}:{action},domain=web-*")

    assert fault.strikes(*place, "web-1")
    assert not fault.strikes(*place, "db-1")
    assert not fault.strikes(place[0], "elsewhere", "web-1")
    assert not fault.strikes("elsewhere", place[1], "web-1")


def test_share_of_the_domains_is_steady() -> None:
    """About a tenth of a thousand, and each time the same ones."""
    fault = parse_fault("save.memory:error=38,share=0.1")
    struck = [name for name in map(str, range(1000)) if fault.strikes("save", "memory", name)]

    assert 60 < len(struck) < 140
    assert struck == [name for name in map(str, range(1000)) if fault.strikes("save", "memory", name)]


@pytest.mark.parametrize(("text", "seconds"), [("5ms", 0.005), ("1.5s", 1.5), ("2m", 120.0)])
def test_duration(text: str, seconds: float) -> None:
    """With its unit."""
    assert parse_duration(text) == pytest.approx(seconds)


def test_counter_runs_with_the_cpus() -> None:
    """It stands while they stand, and goes on from there."""
    paused = RUNNING.paused(102.5)
    resumed = paused.resumed(200.0)

    assert RUNNING.counter(101.0) == 1000
    assert paused.counter(150.0) == 2500
    assert resumed.counter(201.0) == 3500
    assert resumed.paused(201.0).paused(300.0).counter(400.0) == 3500
    assert DOMAIN.started(run_id=1, boot_id="b", live="x", counter=77).counter(0.0) == 77
    assert resumed.ended().counter(500.0) == 0


def test_undone_job_leaves_what_was() -> None:
    """A guest that came with it goes; another one runs again if it is to."""
    job = replace(new_job("save"), resumes=True)
    paused = replace(RUNNING, job=job).paused(101.0)

    assert paused.undone(150.0).resumed(150.0) == paused.undone(150.0)
    assert paused.undone(150.0).state == "running"
    assert replace(paused, job=replace(job, resumes=False)).undone(150.0).state == "paused"
    assert not replace(paused, job=replace(job, brings_guest=True)).undone(150.0).is_active
    assert RUNNING.undone(150.0) is RUNNING


@pytest.mark.parametrize("domain", [DOMAIN, RUNNING, replace(RUNNING, autodestroy=Owner.me())])
def test_state_file_gives_back_what_was_written(domain: SimDomain) -> None:
    """With a job, too; and it says that it is simulated."""
    job = replace(new_job("save"), resumes=True, holds_lock=True)
    for one in (domain, replace(domain, job=job)):
        assert parse_domain(one.to_json(), path="f") == one
        assert '"simulated": true' in one.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"simulated": true}', DOMAIN.to_json()[:-1]])
def test_something_else_is_no_state_file(text: str) -> None:
    """An error that names the file."""
    with pytest.raises(ImageFormatError, match="the-file"):
        parse_domain(text, path="the-file")


def test_owner_is_dead_once_its_process_is() -> None:
    """Even while nobody has collected it; a later process of its number is another one."""
    me = Owner.me()
    child = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = replace(me, pid=child.pid)

    assert me.is_alive()
    assert not zombie.is_alive()
    child.wait()
    assert not zombie.is_alive()
    assert not replace(me, started_at=me.started_at - 1).is_alive()
    assert not replace(me, boot_id="another boot").is_alive()


@given(st.integers(min_value=1, max_value=3 * 256 * KiB), st.integers(min_value=0, max_value=2**60))
def test_memory_comes_back(size: int, counter: int) -> None:
    """Whatever its size; the counter is in it."""
    writer = MemoryWriter(UUID, size)
    data = b"".join(writer.pieces()) + writer.tail(counter)
    assert read_memory(data) == counter


def read_memory(data: bytes) -> int:
    """Load a stream from memory."""
    left = [data]

    def read(count: int) -> bytes:
        part, left[0] = left[0][:count], left[0][count:]
        return part

    return load_memory(read, "web-1", on_half=lambda: None)


@given(st.data())
def test_damaged_memory_is_refused(data: st.DataObject) -> None:
    """Any byte changed, any end cut off."""
    writer = MemoryWriter(UUID, 1000)
    whole = b"".join(writer.pieces()) + writer.tail(5)
    at = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    for damaged in (changed, whole[:at]):
        with pytest.raises(HypervisorError) as caught:
            read_memory(damaged)
        assert caught.value.libvirt_code == 9


def test_machine_of_an_xml() -> None:
    """Name, UUID and memory; a size without a unit is in KiB, as with libvirt."""
    machine = read_machine(make_xml("a & b", UUID, 3 * MiB), "x")
    bare = make_xml("a", UUID, 3 * MiB).replace(" unit='KiB'", "")

    assert (machine.name, machine.uuid, machine.memory_bytes) == ("a & b", UUID, 3 * MiB)
    assert read_machine(bare, "x").memory_bytes == 3 * MiB


@pytest.mark.parametrize(("old", "new"), [("3072", "4096"), ("<vcpu>1", "<vcpu>2"), ("sim-1", "sim-2")])
def test_other_machine_is_refused(old: str, new: str) -> None:
    """What a guest can see may not change."""
    xml = make_xml("web-1", UUID, 3 * MiB)
    check_abi(xml, xml.replace("<devices/>", "<devices><x/></devices>"), "web-1")
    with pytest.raises(EngineError) as caught:
        check_abi(xml, xml.replace(old, new), "web-1")
    assert caught.value.libvirt_code == 67
