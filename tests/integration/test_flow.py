"""Whose turn it is, how often and for how long: real workers over a real Redis; engines stand in."""

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.errors import WrongStateError
from tasks.broker import drain_key, first_queue_name, queue_name
from tasks.cancel import Answer, cancel_jobs
from tasks.catalog import models, queries
from tasks.doorbell import ring_doorbells
from tasks.drain import drain_host, repeat_drains
from tasks.retry import retry_job, ring_due
from tasks.states import JobState

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(known_bench: Any) -> Any:
    """Give a bench whose catalog knows the host."""
    return known_bench


def restore(bench: Any, number: int) -> Any:
    """Submit a restore of an image of its own."""
    return bench.submit(None, "restore", path=f"/srv/store/point-{number}")


def drain(bench: Any, *, on: bool = True) -> None:
    """Drain the host, or not."""
    drain_host(bench.catalog, bench.redis, bench.worker.host, drain=on, now=datetime.now(UTC))


def test_restores_are_read_before_saves_that_were_rung_for_earlier(bench: Any) -> None:
    """From the queues of Redis: nobody was there to hear until both were full."""
    bench.worker.restart(parallel=1)
    bench.worker.end(signal.SIGKILL)
    saves = [bench.submit(f"web-{number}") for number in range(5)]
    restores = [restore(bench, number) for number in range(3)]
    host = bench.worker.host
    assert (bench.redis.llen(queue_name(host)), bench.redis.llen(first_queue_name(host))) == (5, 3)

    bench.worker.start()

    for job in [*saves, *restores]:
        assert bench.end_of(job).state is JobState.SUCCEEDED
    order = bench.started()
    assert order[:3] == [job.job_id for job in restores]
    assert order[3:] == [job.job_id for job in saves]


def test_restore_overtakes_saves_that_wait_on_the_host(bench: Any, wait_until: Callable[..., Any]) -> None:
    """One place, taken; what was heard later is begun earlier."""
    bench.worker.restart(parallel=1)
    first = bench.submit("wait-1")
    wait_until(bench.worker.engine_starts)
    saves = [bench.submit(f"web-{number}") for number in range(3)]
    bench.wait_heard(*saves)
    late = restore(bench, 0)
    bench.wait_heard(late)

    bench.worker.say_go()

    for job in [first, *saves, late]:
        assert bench.end_of(job).state is JobState.SUCCEEDED
    assert bench.started() == [first.job_id, late.job_id, *(job.job_id for job in saves)]


def test_limit_of_one_operation_holds_up_no_other(bench: Any, wait_until: Callable[..., Any]) -> None:
    """A save too many waits, unclaimed, in the catalog still queued; dumps and restores pass it."""
    bench.worker.restart(parallel=3, limits={"save": 1})
    first, second = bench.submit("wait-1"), bench.submit("wait-2")
    wait_until(bench.worker.engine_starts)
    bench.wait_heard(second)
    other = bench.submit("web-3", "dump", to="/srv/store/core")
    back = restore(bench, 0)
    assert bench.end_of(other).state is JobState.SUCCEEDED
    assert bench.end_of(back).state is JobState.SUCCEEDED
    waiting = bench.look(second)
    assert waiting.state is JobState.QUEUED
    assert queries.list_job_events(bench.catalog, second.job_id) == []

    bench.worker.say_go()

    assert bench.end_of(second).state is JobState.SUCCEEDED
    assert bench.end_of(first).state is JobState.SUCCEEDED


def test_waiting_job_survives_the_worker(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Its doorbell is in no queue any more; the journal keeps it over a kill."""
    bench.worker.restart(limits={"save": 1})
    first, second = bench.submit("wait-1"), bench.submit("wait-2")
    wait_until(bench.worker.engine_starts)
    bench.wait_heard(second)
    bench.worker.end(signal.SIGKILL)

    bench.worker.start()
    bench.worker.say_go()

    assert bench.end_of(first).state is JobState.SUCCEEDED
    assert bench.end_of(second).state is JobState.SUCCEEDED


def test_drained_host_finishes_and_takes_no_more(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Over a restart of the worker and a Redis that has lost the wish; then it takes what waits."""
    running = bench.submit("wait-1")
    wait_until(bench.worker.engine_starts)
    drain(bench)
    wait_until(lambda: any(line["event"] == "host drains" for line in bench.worker.log_lines()))
    waiting = bench.submit("web-2")
    bench.wait_heard(waiting)
    bench.worker.say_go()
    assert bench.end_of(running).state is JobState.SUCCEEDED
    assert bench.worker.end(signal.SIGTERM) == 0
    bench.redis.delete(drain_key(bench.worker.host))

    bench.worker.start()

    def says_so() -> bool:
        bench.look(waiting)
        return any(host.draining for host in queries.list_hosts(bench.catalog))

    wait_until(says_so, what="the host to say that it drains")
    assert bench.look(waiting).state is JobState.QUEUED
    assert bench.started() == [running.job_id]

    drain(bench, on=False)

    assert bench.end_of(waiting).state is JobState.SUCCEEDED
    assert repeat_drains(bench.catalog, bench.redis) <= 1
    assert bench.redis.get(drain_key(bench.worker.host)) == "0"


def test_passing_failure_is_tried_again_as_the_next_attempt(bench: Any) -> None:
    """Two attempts in the catalog, each with its end; the job's own state is that of the last."""
    job = bench.submit("busy-1", retry={"attempts": 3, "backoff": 0.2})

    done = bench.end_of(job)

    assert (done.state, done.attempt, done.reason) == (JobState.SUCCEEDED, 2, None)
    assert bench.started() == [job.job_id] * 2
    with bench.catalog.read() as session:
        found = [session.get(models.Attempt, (job.job_id, number)) for number in (1, 2)]
    assert [(row.state, row.finished_at is not None) for row in found] == [
        ("failed", True), ("succeeded", True),
    ]  # fmt: skip
    assert "another operation" in found[0].reason
    seqs = [event.seq for event in queries.list_job_events(bench.catalog, job.job_id)]
    assert len(seqs) == len(set(seqs))


def test_without_a_policy_one_attempt_is_all(bench: Any) -> None:
    """The error says that it may be tried again; whoever gave the order decides."""
    done = bench.end_of(bench.submit("busy-1"))
    assert (done.state, done.attempt) == (JobState.FAILED, 1)
    assert done.error is not None
    assert done.error["transient"] is True


def test_lasting_failure_is_not_tried_again(bench: Any) -> None:
    """Whatever the policy."""
    done = bench.end_of(bench.submit("refuse-1", retry={"attempts": 3, "backoff": 0.1}))
    assert (done.state, done.attempt) == (JobState.FAILED, 1)
    assert len(bench.started()) == 1


def test_attempt_waits_for_its_time_and_can_be_cancelled_meanwhile(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """Ringing is up to whoever calls ring_due; too early it rings for nobody."""
    job = bench.submit("busy-1", retry={"attempts": 2, "backoff": 3600})
    wait_until(lambda: bench.look(job).attempt == 2)
    waiting = bench.look(job)
    assert waiting.state is JobState.QUEUED
    assert waiting.due_at is not None
    assert "attempt 1 of 2 failed" in str(waiting.reason)
    assert ring_due(bench.catalog, bench.app, waiting.due_at - timedelta(seconds=1)) == []
    assert [one.job_id for one in ring_due(bench.catalog, bench.app, waiting.due_at)] == [job.job_id]
    assert ring_due(bench.catalog, bench.app, waiting.due_at + timedelta(seconds=1)) == []

    job = bench.submit("busy-2", retry={"attempts": 2, "backoff": 3600})
    wait_until(lambda: bench.look(job).attempt == 2)
    [cancelled] = cancel_jobs(bench.catalog, bench.redis, [job.job_id], now=datetime.now(UTC))
    assert cancelled.answer is Answer.CANCELLED
    assert cancelled.job.attempt == 2


def test_failed_job_is_done_again_as_a_new_one(bench: Any) -> None:
    """The old one stays as it is; what must not be repeated unseen is refused."""
    old = bench.end_of(bench.submit("busy-1", bypass_cache="off"))

    made = retry_job(bench.catalog, bench.app, old)

    assert (made.retry_of, made.attempt, made.params) == (old.job_id, 1, {"bypass_cache": "off"})
    assert made.job_id != old.job_id
    assert bench.look(old) == old
    with pytest.raises(WrongStateError, match="it is"):
        retry_job(bench.catalog, bench.app, made)
    bench.end_of(made)
    assert len(bench.started()) == 2


def test_restore_and_success_are_not_done_again(bench: Any) -> None:
    """33, and what to do instead."""
    with pytest.raises(WrongStateError, match="succeeded"):
        retry_job(bench.catalog, bench.app, bench.end_of(bench.submit("web-1")))
    bench.worker.end(signal.SIGKILL)
    job = restore(bench, 0)
    [cancelled] = cancel_jobs(bench.catalog, bench.redis, [job.job_id], now=datetime.now(UTC))
    with pytest.raises(WrongStateError, match="not repeated unseen"):
        retry_job(bench.catalog, bench.app, cancelled.job)


def test_job_heard_too_late_fails_with_both_times(bench: Any) -> None:
    """Nothing is started; the host's own deadline counts like the job's."""
    bench.worker.end(signal.SIGKILL)
    job = bench.submit("web-1", max_queue_wait=7200)
    with bench.catalog.write() as session:
        session.get(models.Job, job.job_id).created_at -= timedelta(hours=3)
    ring_again(bench, job)
    bench.worker.settings = {
        "FLEETSAVE_HOST__DEADLINES": json.dumps({"dump": {"max_queue_wait": "1ms"}}),
    }
    other = bench.submit("web-2", "dump", to="/srv/store/core")

    bench.worker.start()

    done = bench.end_of(job)
    assert done.state is JobState.FAILED
    assert "waited in the queue for 3 h" in str(done.reason)
    assert "want at most 2 h" in str(done.reason)
    assert done.error is not None
    assert (done.error["class"], done.error["code"]) == ("DeadlineError", 75)
    assert "want at most 0.001 s" in str(bench.end_of(other).reason)
    assert bench.started() == []


def ring_again(bench: Any, job: Any) -> None:
    """Empty the queue, ring for the job as it stands now."""
    bench.redis.delete(queue_name(bench.worker.host))
    ring_doorbells(bench.catalog, bench.app, [bench.look(job)], now=datetime.now(UTC))


@pytest.mark.parametrize(
    ("params", "words"),
    [({"max_duration": 0.5}, "ran for"), ({"max_stall": 0.5}, "came no further for")],
)
def test_job_that_takes_too_long_is_stopped_and_has_failed(
    bench: Any, params: dict[str, float], words: str
) -> None:
    """Never cancelled: nobody asked; the guest is as it was, and it is not tried again."""
    job = bench.submit("wait-1", **params, retry={"attempts": 3, "backoff": 0.1})

    done = bench.end_of(job)

    assert (done.state, done.attempt) == (JobState.FAILED, 1)
    assert words in str(done.reason)
    assert "want at most 0.5 s" in str(done.reason)
    assert "as it was before" in str(done.reason)


def test_job_past_the_point_of_no_return_has_no_deadline(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Libvirt may take its time to stop QEMU."""
    job = bench.submit("late-1", max_duration=3, max_stall=3)
    wait_until(lambda: bench.look(job).state is JobState.COMMITTING)
    started_at = bench.look(job).started_at
    wait_until(lambda: datetime.now(UTC) > started_at + timedelta(seconds=4), what="the deadline to pass")

    bench.worker.say_go()

    assert bench.end_of(job).state is JobState.SUCCEEDED


def test_every_doorbell_of_a_host_that_ends_is_closed(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Twenty jobs, two at a time, a worker killed and started in between: each runs once."""
    jobs = [bench.submit(f"web-{number}") for number in range(20)]
    wait_until(lambda: len(bench.started()) >= 4)
    bench.worker.end(signal.SIGKILL)
    bench.worker.start()
    # What Redis had handed to the dead worker is gone: the reconciler rings again for what is still queued.
    ring_doorbells(bench.catalog, bench.app, [bench.look(job) for job in jobs], now=datetime.now(UTC))

    states = [bench.end_of(job).state for job in jobs]

    assert states.count(JobState.SUCCEEDED) >= 18
    assert len(set(bench.started())) == len(bench.started())
