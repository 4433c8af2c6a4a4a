"""Jobs that are cancelled where they stand, by real workers over a real Redis; engines stand in."""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.sandbox import RedisServer
from tasks.broker import cancel_key
from tasks.cancel import FLAG_LIFETIME, Answer, Cancellation, cancel_jobs, repeat_cancels
from tasks.catalog import JobView, queries
from tasks.errors import BrokerError
from tasks.states import JobState
from tests.data.dead_engine import leave_image

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(known_bench: Any) -> Any:
    """Give a bench whose catalog knows the host."""
    return known_bench


def cancel(bench: Any, *jobs: JobView) -> list[Cancellation]:
    """Cancel the jobs."""
    ids = [job.job_id for job in jobs]
    return cancel_jobs(bench.catalog, bench.redis, ids, now=datetime.now(UTC))


def answers(cancelled: list[Cancellation]) -> list[Answer]:
    """Return only what was answered."""
    return [one.answer for one in cancelled]


def count(bench: Any, result: str) -> float:
    """Return how many doorbells ended so."""
    return float(bench.worker.metric("fleetsave_doorbells_total", result=result))


def journal_states(bench: Any) -> dict[str, str]:
    """Return the states of all jobs in the host's journal."""
    with closing(sqlite3.connect(bench.worker.folder / "state" / "journal.sqlite")) as journal:
        return dict(journal.execute("SELECT job_id, state FROM jobs"))


def test_job_queued_for_a_dead_host_is_cancelled_at_once_and_never_runs(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """Its doorbell is heard when the worker is there again; no engine is started for it."""
    bench.worker.end(signal.SIGKILL)
    job = bench.submit("web-1")

    [cancelled] = cancel(bench, job)

    assert cancelled.answer is Answer.CANCELLED
    assert (cancelled.job.state, cancelled.job.started_at) == (JobState.CANCELLED, None)
    assert cancelled.job.error is not None
    assert cancelled.job.error["code"] == 130
    bench.worker.start()
    wait_until(lambda: count(bench, "cancelled") == 1)
    wait_until(lambda: bench.worker.metric("fleetsave_jobs_total", op="save", outcome="cancelled") == 1)
    after = bench.submit("web-1")
    assert bench.end_of(after).state is JobState.SUCCEEDED
    assert bench.started() == [after.job_id]
    assert bench.look(job).state is JobState.CANCELLED


def test_flag_outlives_every_doorbell(bench: Any) -> None:
    """A doorbell that is good is never heard without the flag."""
    bench.worker.end(signal.SIGKILL)
    job = bench.submit("web-1")
    cancel(bench, job)
    left = bench.redis.ttl(cancel_key(bench.worker.host, job.job_id))
    assert FLAG_LIFETIME - timedelta(minutes=5) < timedelta(seconds=left) <= FLAG_LIFETIME


def test_running_job_is_stopped_by_its_engine(bench: Any, wait_until: Callable[..., Any]) -> None:
    """The engine puts the guest back and says so; it is gone when the job has ended."""
    job = bench.submit("wait-1")
    [(_, pid)] = wait_until(bench.worker.engine_starts)
    wait_until(lambda: bench.look(job).state is JobState.RUNNING)

    assert answers(cancel(bench, job)) == [Answer.ASKED]

    done = bench.end_of(job)
    assert done.state is JobState.CANCELLED
    assert "as it was before" in str(done.reason)
    assert not Path(f"/proc/{pid}").exists()
    assert not list((bench.worker.folder / "state" / "jobs").iterdir())
    assert answers(cancel(bench, job)) == [Answer.WAS_FINAL]


def test_job_past_the_point_of_no_return_finishes(bench: Any, wait_until: Callable[..., Any]) -> None:
    """It is left alone: neither killed nor called cancelled."""
    job = bench.submit("late-1")
    wait_until(lambda: bench.look(job).state is JobState.COMMITTING)
    assert answers(cancel(bench, job)) == [Answer.ASKED]
    flagged = len(bench.worker.log_lines())

    bench.worker.say_go()

    assert bench.end_of(job).state is JobState.SUCCEEDED
    assert not [line for line in bench.worker.log_lines()[flagged:] if line["event"].startswith("engine ")]


def test_engine_that_dies_of_being_stopped_makes_a_cancelled_job(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """What it left is put right first."""
    job = bench.submit("deaf-1")
    [(_, pid)] = wait_until(bench.worker.engine_starts)
    leave_image(bench.worker.folder / "store", job.job_id, state="writing")
    cancel(bench, job)
    wait_until(lambda: any(line["event"] == "engine told to stop" for line in bench.worker.log_lines()))

    os.kill(pid, signal.SIGKILL)

    done = bench.end_of(job)
    assert done.state is JobState.CANCELLED
    assert "put right" in str(done.reason)
    assert list((bench.worker.folder / "store" / ".staging").iterdir()) == []


def test_job_that_waits_for_its_turn_on_the_host_is_cancelled_at_once(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """Heard is not claimed."""
    bench.worker.restart(limits={"save": 1})
    first = bench.submit("wait-1")
    wait_until(bench.worker.engine_starts)
    second = bench.submit("wait-2")
    bench.wait_heard(second)

    assert answers(cancel(bench, second, first)) == [Answer.CANCELLED, Answer.ASKED]

    assert bench.end_of(first).state is JobState.CANCELLED
    wait_until(lambda: count(bench, "cancelled") == 1)
    assert bench.started() == [first.job_id]


def test_engine_that_outlived_its_worker_is_stopped_by_the_next(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """The wish was uttered while nobody heard it."""
    job = bench.submit("wait-1")
    wait_until(bench.worker.engine_starts)
    wait_until(lambda: bench.look(job).state is JobState.RUNNING)
    bench.worker.end(signal.SIGKILL)
    assert answers(cancel(bench, job)) == [Answer.ASKED]

    bench.worker.start()

    assert bench.end_of(job).state is JobState.CANCELLED


def test_wish_that_redis_could_not_take_is_repeated(
    bench: Any, redis_server: RedisServer, wait_until: Callable[..., Any]
) -> None:
    """40 and a mark; later one call tells every host and closes what nobody claimed."""
    running = bench.submit("wait-1")
    wait_until(lambda: bench.look(running).state is JobState.RUNNING)
    redis_server.kill()
    try:
        with pytest.raises(BrokerError) as caught:
            cancel(bench, running)
    finally:
        redis_server.start()
    assert (caught.value.exit_code, caught.value.is_transient) == (40, True)
    [marked] = queries.find_jobs(bench.catalog, [running.job_id])
    assert marked.cancel_requested_at is not None
    assert not marked.is_final

    assert repeat_cancels(bench.catalog, bench.redis) == 1

    assert bench.end_of(running).state is JobState.CANCELLED


def test_flag_that_redis_has_lost_is_set_again(bench: Any, wait_until: Callable[..., Any]) -> None:
    """The doorbell of a cancelled job is still in the queue: it must find the flag."""
    bench.worker.end(signal.SIGKILL)
    job = bench.submit("web-1")
    cancel(bench, job)
    bench.redis.delete(cancel_key(bench.worker.host, job.job_id))

    assert repeat_cancels(bench.catalog, bench.redis) == 1

    bench.worker.start()
    wait_until(lambda: count(bench, "cancelled") == 1)
    assert bench.started() == []
    later = datetime.now(UTC) + timedelta(hours=25)
    assert repeat_cancels(bench.catalog, bench.redis, now=later) == 0


def test_job_is_not_begun_before_redis_knows_of_the_claim(
    bench: Any, redis_server: RedisServer, wait_until: Callable[..., Any]
) -> None:
    """With Redis gone nobody can say whether the job is still wanted: it waits, and runs later."""
    bench.worker.restart(limits={"save": 1})
    first, second = bench.submit("wait-1"), bench.submit("wait-2")
    wait_until(bench.worker.engine_starts)
    bench.wait_heard(second)
    redis_server.kill()
    try:
        bench.worker.say_go()
        wait_until(lambda: bench.worker.metric("fleetsave_jobs_total", op="save", outcome="succeeded") == 1)
        wait_until(lambda: journal_states(bench).get(second.job_id) == "queued", what="the second claim")
    finally:
        redis_server.start()
    assert bench.started() == [first.job_id]
    assert bench.end_of(second).state is JobState.SUCCEEDED


def test_worker_that_ends_before_redis_is_back_leaves_the_claim_to_the_next(
    bench: Any, redis_server: RedisServer, wait_until: Callable[..., Any]
) -> None:
    """Claimed and not begun: the next worker begins it."""
    bench.worker.restart(limits={"save": 1})
    bench.submit("wait-1")
    second = bench.submit("wait-2")
    wait_until(bench.worker.engine_starts)
    bench.wait_heard(second)
    redis_server.kill()
    try:
        bench.worker.say_go()
        wait_until(lambda: journal_states(bench).get(second.job_id) == "queued", what="the second claim")
        bench.worker.end(signal.SIGTERM)
    finally:
        redis_server.start()
    bench.worker.start()
    assert bench.end_of(second).state is JobState.SUCCEEDED
    assert bench.worker.metric("fleetsave_recoveries_total", kind="adopted") == 1
