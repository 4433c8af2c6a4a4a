"""Real workers, a real Redis, an engine that stands in."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import RedisServer
from tasks.catalog import JobView, queries
from tasks.events import apply_events
from tasks.states import JobState
from tasks.submit import DomainRef, submit
from tasks.wait import wait_jobs

pytestmark = pytest.mark.integration


def end_of(bench: Any, job: JobView) -> JobView:
    """Wait for the end of a job and return it."""
    return list(wait_jobs(bench.catalog, bench.redis, [job.job_id], timeout_seconds=20))[-1]


def save(bench: Any, domain: str) -> JobView:
    """Submit a save."""
    return submit(bench.catalog, bench.app, op="save", domains=[DomainRef(domain, bench.worker.host)])[0]


@pytest.fixture(autouse=True)
def _known_host(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Let the catalog know the host."""

    def listed() -> bool:
        apply_events(bench.catalog, bench.redis, [bench.worker.host])
        return bool(queries.list_domains(bench.catalog, host=bench.worker.host))

    wait_until(listed, what="inventory")


def test_submitted_job_runs_and_its_restore_point_is_known(bench: Any) -> None:
    """Row, doorbell, engine, events, catalog: one save all the way."""
    [job] = submit(
        bench.catalog, bench.app, op="save", domains=[DomainRef("web-1")], params={"bypass_cache": "prefer"}
    )
    assert (job.state, job.host, job.domain_uuid) == (
        JobState.QUEUED,
        bench.worker.host,
        "00000000-0000-0000-0000-000000000001",
    )
    assert job.rung_at is not None

    views = list(wait_jobs(bench.catalog, bench.redis, [job.job_id], timeout_seconds=20))

    assert views[0].state in {JobState.QUEUED, JobState.RUNNING}
    done = views[-1]
    assert done.state is JobState.SUCCEEDED
    assert done.result is not None
    asked = done.result["request"]
    assert asked["store"] == str(bench.worker.folder / "store")
    assert asked["allowed_roots"] == [asked["store"]]
    assert asked["bypass_cache"] == "prefer"
    [point] = queries.list_restore_points(bench.catalog, domain="web-1")
    assert (point.job_id, point.size_bytes, point.checksum_algorithm) == (job.job_id, 1048576, "blake3")
    assert point.manifest_path == f"{point.path}/manifest.json"
    states = [
        e.body["state"] for e in queries.list_job_events(bench.catalog, job.job_id) if e.kind == "state"
    ]
    assert states == ["queued", "running", "committing", "succeeded"]


def test_doorbell_rung_three_times_runs_once(bench: Any, wait_until: Callable[..., Any]) -> None:
    """A known job id is a duplicate and is dropped."""
    envelope = bench.envelope()
    for _ in range(3):
        bench.ring(envelope)

    wait_until(lambda: bench.worker.metric("fleetsave_doorbells_total", result="duplicate") == 2)
    wait_until(lambda: bench.worker.metric("fleetsave_jobs_total", op="save", outcome="succeeded") == 1)
    assert [job_id for job_id, _ in bench.worker.engine_starts()] == [envelope.job_id]
    assert bench.worker.metric("fleetsave_doorbells_total", result="claimed") == 1


def test_refused_doorbells_are_counted_and_nothing_runs(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Malformed, expired, for another host: each has its label, none starts an engine."""
    good = bench.envelope()
    old = bench.envelope(expires_at=good.issued_at, issued_at=good.issued_at.replace(year=2020))
    for envelope in ("no json", None, {"v": 1}, bench.envelope(host="elsewhere"), old, good):
        bench.ring(envelope)

    wait_until(lambda: bench.worker.metric("fleetsave_jobs_total", op="save", outcome="succeeded") == 1)
    found = {
        result: bench.worker.metric("fleetsave_doorbells_total", result=result)
        for result in ("malformed", "expired", "wrong_host", "claimed", "duplicate", "bad_signature")
    }
    assert found == {
        "malformed": 3, "expired": 1, "wrong_host": 1, "claimed": 1, "duplicate": 0, "bad_signature": 0,
    }  # fmt: skip
    assert [job_id for job_id, _ in bench.worker.engine_starts()] == [good.job_id]


def test_killed_engine_fails_its_job_with_signal_and_last_words(bench: Any) -> None:
    """The reason says what killed it and the last line of its log."""
    done = end_of(bench, save(bench, "crash-1"))

    assert done.state is JobState.FAILED
    assert done.reason is not None
    assert "SIGKILL" in done.reason
    assert "last words" in done.reason
    assert not list((bench.worker.folder / "state" / "jobs").iterdir())


def test_engine_error_reaches_the_catalog(bench: Any) -> None:
    """Class and code of the engine's error are the job's."""
    done = end_of(bench, save(bench, "refuse-1"))

    assert (done.state, done.reason) == (JobState.FAILED, "domain is shut off")
    assert done.error is not None
    assert (done.error["class"], done.error["code"]) == ("WrongStateError", 33)


def test_redis_killed_during_a_job_costs_nothing(
    bench: Any, redis_server: RedisServer, wait_until: Callable[..., Any]
) -> None:
    """Events wait in the journal until Redis is back; the worker takes new work then."""
    job = save(bench, "wait-1")
    wait_until(bench.worker.engine_starts)
    redis_server.kill()
    try:
        bench.worker.say_go()
        wait_until(lambda: bench.worker.metric("fleetsave_jobs_total", op="save", outcome="succeeded") == 1)
    finally:
        redis_server.start()

    assert end_of(bench, job).state is JobState.SUCCEEDED
    assert end_of(bench, save(bench, "web-1")).state is JobState.SUCCEEDED


def test_killed_worker_leaves_the_engine_and_the_next_one_adopts_it(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """The engine goes on; its job succeeds under the new worker and ran once."""
    job = save(bench, "wait-1")
    [(_, pid)] = wait_until(bench.worker.engine_starts)
    bench.worker.end(signal.SIGKILL)
    assert Path(f"/proc/{pid}").exists()

    bench.worker.start()
    assert bench.worker.metric("fleetsave_recoveries_total", kind="adopted") == 1
    assert bench.worker.metric("fleetsave_jobs_running", op="save") == 1
    bench.worker.say_go()

    assert end_of(bench, job).state is JobState.SUCCEEDED
    assert [job_id for job_id, _ in bench.worker.engine_starts()] == [job.job_id]
    events = queries.list_job_events(bench.catalog, job.job_id)
    assert len({(e.kind, str(e.body)) for e in events}) == len(events), "something was reported twice"


def test_engine_and_worker_killed_close_the_job_as_lost(bench: Any, wait_until: Callable[..., Any]) -> None:
    """No job runs for ever: nobody lived to say what happened, and that is said."""
    job = save(bench, "wait-1")
    [(_, pid)] = wait_until(bench.worker.engine_starts)
    bench.worker.end(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)

    bench.worker.start()

    done = end_of(bench, job)
    assert done.state is JobState.LOST
    assert done.reason is not None
    assert bench.worker.metric("fleetsave_recoveries_total", kind="lost") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_warm_shutdown_finishes_the_running_job(
    bench: Any, wait_until: Callable[..., Any], number: signal.Signals
) -> None:
    """The job ends, its events are sent, the exit status is 0."""
    job = save(bench, "wait-1")
    wait_until(bench.worker.engine_starts)
    bench.worker.signal(number)
    bench.worker.say_go()

    assert bench.worker.end(None) == 0
    assert end_of(bench, job).state is JobState.SUCCEEDED


def test_worker_keeps_few_connections_and_says_that_it_polls(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """No gossip, no remote control; the poll timestamp moves."""
    host = bench.worker.host
    first = bench.worker.metric("fleetsave_worker_last_poll_timestamp_seconds")
    wait_until(lambda: bench.worker.metric("fleetsave_worker_last_poll_timestamp_seconds") != first)
    names = [c["name"] for c in bench.redis.client_list() if c["name"].endswith(f"-{host}")]
    own = [f"fleetsave-{host}"] * 2
    assert sorted(names) == [f"fleetsave-events-{host}", f"fleetsave-flags-{host}", *own]
    assert not list(bench.redis.scan_iter("*pidbox*"))
    assert bench.worker.metric("fleetsave_libvirt_up") == 1


def test_worker_that_starts_without_redis_hears_the_doorbell_later(
    bench: Any, redis_server: RedisServer, wait_until: Callable[..., Any]
) -> None:
    """Hosts outlive the broker: no order of starting is the wrong one."""
    job = save(bench, "wait-1")
    wait_until(bench.worker.engine_starts)
    bench.worker.end(signal.SIGKILL)
    redis_server.stop()
    try:
        bench.worker.start(is_awaited=False)
        bench.worker.say_go()
        wait_until(lambda: any(line["event"] == "events wait" for line in bench.worker.log_lines()))
    finally:
        redis_server.start()

    assert end_of(bench, job).state is JobState.SUCCEEDED
    bench.worker.wait_ready()
