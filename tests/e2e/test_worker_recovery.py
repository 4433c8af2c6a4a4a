"""Workers and engines that are killed on real guests: the job ends as the guest did, within 10 s."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from cli.demo.fleet import Fleet
from cli.sandbox import Guest, Sandbox
from tasks.states import JobState
from tests.data.held_worker import RIGHT_SECONDS, HeldWorker

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox) -> Iterator[HeldWorker]:
    """Give a worker on alpha whose engines stand still where they are told to."""
    host = sandbox.hosts["alpha"]
    with sandbox.redis() as broker:
        made = HeldWorker(host=host, fleet=Fleet(sandbox, broker, name="control-recovery"))
        host.run(["mkdir", "-m", "0700", made.folder])
        made.start()
        made.fleet.wait_hosts()
        yield made
        made.fleet.stop_workers()


@pytest.mark.parametrize("worker_dies", [True, False])
def test_only_copy_of_a_guest_makes_its_job_succeed(
    bench: HeldWorker, running_guest: Guest, worker_dies: bool
) -> None:
    """Killed when libvirt had let the guest go: the image is published, reported, and restores."""
    job_id = bench.hold("committed", "save", running_guest.name)
    before = running_guest.counter()
    assert running_guest.state() == "shut off"
    published = 0.0 if worker_dies else bench.count("published")

    if worker_dies:
        bench.kill_worker()
    os.kill(bench.engine_pid(job_id), signal.SIGKILL)
    if worker_dies:
        bench.start()

    job = bench.end_of(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    assert job.result.keys() >= {"path", "bytes", "checksum", "bypass_cache", "guest_paused_seconds"}
    assert job.result["bypass_cache"]["resident_bytes"] == 0
    assert bench.count("published") == published + 1
    assert bench.staging() == []
    restored = bench.fleet.run("restore", job.result["path"], "--host", "alpha", "--json")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    running_guest.wait_counter_beyond(before)
    assert json.loads(restored.stdout)["domain"] == running_guest.name


@pytest.mark.parametrize("worker_dies", [True, False])
@pytest.mark.parametrize("step", ["stream", "prepared"])
@pytest.mark.parametrize("op", ["save", "checkpoint"])
def test_guest_of_a_dead_engine_goes_on_and_its_job_has_failed(
    bench: HeldWorker, steady_guest: Guest, op: str, step: str, worker_dies: bool
) -> None:
    """Killed before the point of no return: nothing is left but the reason."""
    job_id = bench.hold(step, op, steady_guest.name, "--to", bench.host.store / "a.save")

    if worker_dies:
        bench.kill_worker()
    os.kill(bench.engine_pid(job_id), signal.SIGKILL)
    if worker_dies:
        bench.start()

    job = bench.end_of(job_id)
    assert job.state is JobState.FAILED
    assert "the guest is as it was" in str(job.reason)
    assert bench.staging() == []
    assert not (bench.host.store / "a.save").exists()
    steady_guest.wait_state("running", timeout=RIGHT_SECONDS)
    steady_guest.wait_counting()


def test_engine_that_outlives_its_worker_is_not_disturbed(bench: HeldWorker, steady_guest: Guest) -> None:
    """The next worker's recovery leaves its image alone, and follows it."""
    job_id = bench.hold("stream", "save", steady_guest.name)
    left = bench.staging()
    assert left

    bench.kill_worker()
    bench.start()

    assert bench.count("adopted") == 1
    assert bench.staging() == left
    os.kill(bench.engine_pid(job_id), signal.SIGTERM)
    assert bench.end_of(job_id).state is JobState.CANCELLED
    assert bench.staging() == []
    steady_guest.wait_state("running", timeout=RIGHT_SECONDS)
    steady_guest.wait_counting()
