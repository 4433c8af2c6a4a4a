"""Jobs on real guests that are cancelled in each of their phases, and what the guests are afterwards."""

import json
import os
import signal
import statistics
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cli.demo.fleet import Fleet
from cli.sandbox import Guest, Sandbox
from tasks.states import JobState
from tests.data.held_worker import HeldWorker, wait_until

pytestmark = pytest.mark.e2e

#: Cancels that the printed median is of.
_TIMES = 5


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox) -> Iterator[HeldWorker]:
    """Give a worker on alpha whose engines stand still where they are told to."""
    host = sandbox.hosts["alpha"]
    with sandbox.redis() as broker:
        made = HeldWorker(
            host=host, fleet=Fleet(sandbox, broker, name="control-cancel"), name="cancelled-worker"
        )
        host.run(["mkdir", "-m", "0700", made.folder])
        made.start()
        made.fleet.wait_hosts()
        yield made
        made.fleet.stop_workers()


def cancel(bench: HeldWorker, *words: str, code: int = 0) -> list[dict[str, Any]]:
    """Cancel jobs by the command line; return what it says of each."""
    done = bench.fleet.run("jobs", "cancel", *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return list(json.loads(done.stdout)["jobs"])


def check_untouched(bench: HeldWorker, guest: Guest) -> None:
    """See that the guest runs and counts on, nothing is left of the image, and the domain's lock is free."""
    guest.wait_state("running", timeout=10)
    guest.wait_counter_beyond(guest.counter())
    assert bench.staging() == []
    assert not (bench.host.store / "a.save").exists()
    lock = bench.host.runtime_dir / "fleetsave" / "locks" / f"{guest.spec.uuid}.lock"
    if lock.exists():  # Nobody has made it yet where the first job was stopped in its preflight.
        subprocess.run(["flock", "--nonblock", lock, "true"], check=True)


@pytest.mark.parametrize("op", ["save", "checkpoint"])
@pytest.mark.parametrize("step", ["preflight", "staging", "opened", "progress", "synced", "prepared"])
def test_guest_of_a_cancelled_job_is_as_before(
    bench: HeldWorker, steady_guest: Guest, op: str, step: str
) -> None:
    """At every step before the point of no return; when the command returns, not some time later."""
    job_id = bench.hold(step, op, steady_guest.name, "--to", bench.host.store / "a.save")

    [told] = cancel(bench, job_id[:12])

    assert (told["answer"], told["job"]["state"]) == ("asked", "cancelled")
    assert bench.staging() == []
    check_untouched(bench, steady_guest)
    # The lock being free, and nothing half done: the next save is like any other.
    assert cancel(bench, job_id, code=33)[0]["answer"] == "was final"


def test_job_in_its_commit_window_finishes_and_the_cancel_says_so(
    bench: HeldWorker, running_guest: Guest
) -> None:
    """The guest has been let go: the image is all there is of it, and it is published."""
    job_id = bench.hold("commit", "save", running_guest.name)
    wait_until(lambda: bench.view(job_id).state is JobState.COMMITTING)
    with subprocess.Popen(
        bench.fleet.argv("jobs", "cancel", job_id),
        env=bench.fleet.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as cancelling:  # fmt: skip
        wait_until(lambda: bench.view(job_id).cancel_requested_at is not None)
        # Held engines go on at this; in the commit it is too late to mean anything else.
        os.kill(bench.engine_pid(job_id), signal.SIGTERM)
        said, errors = cancelling.communicate(timeout=60)

    assert (cancelling.returncode, errors) == (0, "")
    assert "finished before it could be cancelled" in said
    job = bench.end_of(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    before = running_guest.counter()
    restored = bench.fleet.run("restore", job.result["path"], "--host", "alpha", "--json")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    running_guest.wait_counter_beyond(before)
    assert cancel(bench, job_id, code=33)[0]["job"]["state"] == "succeeded"


def test_dump_that_ends_its_guest_is_kept(bench: HeldWorker, running_guest: Guest) -> None:
    """Once the last byte is out libvirt crashes the guest: a cancel then must not throw the file away."""
    target = bench.host.store / "a.core"
    job_id = bench.hold("commit", "dump", running_guest.name, "--to", target, "--crash")
    wait_until(lambda: bench.view(job_id).state is JobState.COMMITTING)
    assert cancel(bench, job_id, "--no-wait")[0]["answer"] == "asked"

    os.kill(bench.engine_pid(job_id), signal.SIGTERM)

    assert bench.end_of(job_id).state is JobState.SUCCEEDED
    assert target.stat().st_size > 0
    assert running_guest.state() == "shut off"


def test_restore_before_its_commit_leaves_no_half_guest(bench: HeldWorker, running_guest: Guest) -> None:
    """The image is only read: the same restore goes through afterwards."""
    saved = bench.fleet.run("save", running_guest.name, "--json")
    assert saved.returncode == 0, saved.stdout + saved.stderr
    path, before = json.loads(saved.stdout)["path"], running_guest.counter()
    job_id = bench.hold("opened", "restore", path)

    assert cancel(bench, job_id)[0]["job"]["state"] == "cancelled"

    assert running_guest.state() == "shut off"
    assert bench.fleet.run("restore", path, "--host", "alpha").returncode == 0
    running_guest.wait_counter_beyond(before)


def test_queued_job_of_a_dead_host_is_cancelled_and_never_touches_its_guest(
    bench: HeldWorker, steady_guest: Guest
) -> None:
    """At once; the doorbell that the next worker hears starts nothing."""
    bench.kill_worker()
    submitted = bench.fleet.run("save", steady_guest.name, "--host", "alpha", "--no-wait")
    job_id = submitted.stdout.strip()

    done = bench.fleet.run("jobs", "cancel", "--all", "--host", "alpha")

    assert (done.returncode, done.stderr) == (0, "")
    assert "before any host had begun it" in done.stdout
    bench.start()
    key = ("fleetsave_doorbells_total", (("result", "cancelled"),))
    wait_until(lambda: bench.worker.scrape()[key] == 1, seconds=30)
    job = bench.view(job_id)
    assert (job.state, job.started_at) == (JobState.CANCELLED, None)
    check_untouched(bench, steady_guest)


def test_median_of_cancels_is_printed(
    bench: HeldWorker, steady_guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the mark in the catalog until the host says that all is as before; measured, with no limit."""
    seconds = []
    for _ in range(_TIMES):
        job_id = bench.hold("progress", "save", steady_guest.name)
        [told] = cancel(bench, job_id)
        job = bench.view(job_id)
        assert (told["job"]["state"], job.state) == ("cancelled", JobState.CANCELLED)
        assert job.finished_at is not None
        assert job.cancel_requested_at is not None
        seconds.append((job.finished_at - job.cancel_requested_at).total_seconds())
    with capsys.disabled():
        print(f"\ncancel: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")  # noqa: T201
    check_untouched(bench, steady_guest)


def test_drained_host_leaves_jobs_queued_until_it_is_undrained(
    bench: HeldWorker, steady_guest: Guest
) -> None:
    """Its worker is started anew meanwhile; hosts list says how it stands."""
    run = bench.fleet.run
    assert run("hosts", "drain", "alpha").returncode == 0
    wait_until(lambda: '"host drains"' in bench.worker.log.read_text())
    job_id = run("checkpoint", steady_guest.name, "--host", "alpha", "--no-wait").stdout.strip()
    bench.kill_worker()
    bench.start()
    wait_until(lambda: "drained, 1 queued" in run("hosts", "list").stdout, seconds=30)
    assert bench.view(job_id).state is JobState.QUEUED

    assert run("hosts", "undrain", "alpha").returncode == 0

    assert bench.end_of(job_id, seconds=60).state is JobState.SUCCEEDED
    assert "drain" not in run("hosts", "list").stdout
    assert run("hosts", "drain", "nobody").returncode == 2


def test_failed_job_is_retried_by_its_id(bench: HeldWorker, steady_guest: Guest) -> None:
    """A new job that names the old; the old one stays cancelled."""
    job_id = bench.hold("stream", "checkpoint", steady_guest.name)
    cancel(bench, job_id)

    done = bench.fleet.run("jobs", "retry", job_id, "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    made = bench.view(json.loads(done.stdout)["job_id"])
    assert (made.retry_of, made.state) == (job_id, JobState.SUCCEEDED)
    assert bench.view(job_id).state is JobState.CANCELLED
    assert bench.fleet.run("jobs", "retry", made.job_id).returncode == 33


@pytest.mark.parametrize(
    "words", [(), ("--all",), ("ffffffff",), ("--host", "alpha"), ("--all", "--host", "alpha", "ffffffff")]
)
def test_choice_of_jobs_that_means_nothing_is_a_usage_error(
    bench: HeldWorker, words: tuple[str, ...]
) -> None:
    """2 and one line."""
    done = bench.fleet.run("jobs", "cancel", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
