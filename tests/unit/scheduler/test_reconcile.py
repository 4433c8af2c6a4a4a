from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.reconcile import JobSight, Limits, Plan, QueueSight, plan_pass
from tasks.states import FINAL, JobState

NOW = datetime(2026, 1, 10, tzinfo=UTC)
LIMITS = Limits()


def ago(**parts: float) -> datetime:
    """Return a moment before now."""
    return NOW - timedelta(**parts)


def plan(job: dict[str, Any], *, seen_at: datetime | None = NOW, waiting: int | None = 0) -> Plan:
    """Plan one pass for one job on one host."""
    values: dict[str, Any] = {
        "job_id": "j",
        "host": "alpha",
        "state": JobState.QUEUED,
        "created_at": ago(hours=1),
    }
    hosts = {"alpha": QueueSight(seen_at=seen_at, waiting=waiting)}
    return plan_pass([JobSight(**(values | job))], hosts, LIMITS, now=NOW)


RING, ASK, NOTHING = Plan(ring=("j",)), Plan(ask=("j",)), Plan()


def test_row_that_nobody_rang_for_is_rung_for_after_a_grace() -> None:
    """Its maker may be about to."""
    assert plan({"created_at": ago(seconds=9)}) == NOTHING
    assert plan({"created_at": ago(seconds=11)}) == RING
    assert plan({"created_at": ago(seconds=11)}, seen_at=None) == RING


def test_doorbell_that_a_hearing_host_did_not_hear_is_rung_again() -> None:
    """Not while it waits in the queue, not while the host is away, not within the interval."""
    rung = {"rung_at": ago(minutes=3)}
    assert plan(rung) == RING
    assert plan(rung, waiting=1) == NOTHING
    assert plan(rung, waiting=None) == NOTHING
    assert plan(rung, seen_at=ago(minutes=4)) == NOTHING
    assert plan({"rung_at": ago(minutes=1)}) == NOTHING
    assert plan({"rung_at": ago(hours=25), "created_at": ago(hours=25)}, waiting=9) == RING


def test_silent_job_is_asked_about_once_in_an_interval() -> None:
    """Only of a host that is up."""
    silent = {"state": JobState.RUNNING, "heard_at": ago(minutes=5)}
    assert plan(silent) == ASK
    assert plan(silent, seen_at=ago(minutes=4)) == NOTHING
    assert plan(silent | {"asked_at": ago(seconds=30)}) == NOTHING
    assert plan(silent | {"asked_at": ago(seconds=61)}) == ASK
    assert plan(silent | {"heard_at": ago(seconds=30)}) == NOTHING


@pytest.mark.parametrize("state", list(JobState))
def test_gap_in_what_was_said_is_asked_about(state: JobState) -> None:
    """Whatever the state: a finished job's history is to be whole too."""
    assert plan({"state": state, "heard_at": NOW, "has_gaps": True}) == ASK


@pytest.mark.parametrize("why", [{"is_cancelled": True}, {"new_host": "beta"}])
def test_queued_job_that_is_to_stop_or_to_move_is_withdrawn_not_rung_for(why: dict[str, Any]) -> None:
    """Its host gives it back first."""
    assert plan(why | {"rung_at": ago(minutes=3)}) == ASK
    assert plan(why) == ASK
    assert plan(why, seen_at=ago(hours=1)) == NOTHING
    assert plan(why | {"state": JobState.RUNNING, "heard_at": NOW}) == NOTHING


def test_jobs_of_a_host_that_is_gone_are_given_up() -> None:
    """With a sentence that names host, time and what to do; finished jobs are left alone."""
    job = {"state": JobState.RUNNING, "created_at": ago(hours=30), "heard_at": ago(hours=25)}
    [(job_id, reason)] = plan(job, seen_at=ago(hours=24)).lose
    assert job_id == "j"
    assert reason == (
        "host alpha has said nothing for 24 h, since 2026-01-09 00:00 UTC; the job was running then:"
        " look at the domain there"
    )
    assert plan(job, seen_at=ago(hours=23)) == NOTHING
    assert plan(job | {"state": JobState.FAILED}, seen_at=ago(hours=99)) == NOTHING


def test_queued_job_is_not_given_up_while_a_doorbell_is_good() -> None:
    """Its host may come back and run it."""
    job = {"created_at": ago(hours=60), "rung_at": ago(hours=23)}
    assert plan(job, seen_at=ago(hours=50)) == NOTHING
    assert plan(job | {"rung_at": ago(hours=24)}, seen_at=ago(hours=50)).lose


def test_one_pass_does_a_bounded_amount() -> None:
    """The rest is for the next."""
    jobs = [
        JobSight(job_id=str(number), host="alpha", state=state, created_at=ago(hours=1))
        for number in range(1000)
        for state in (JobState.QUEUED, JobState.RUNNING)
    ]
    found = plan_pass(jobs, {"alpha": QueueSight(seen_at=NOW, waiting=0)}, LIMITS, now=NOW)
    assert (len(found.ring), len(found.ask), found.lose) == (LIMITS.rings_max, LIMITS.asks_max, ())


_MOMENTS = st.none() | st.integers(-10, 200_000).map(lambda seconds: ago(seconds=seconds))


@given(
    state=st.sampled_from(JobState),
    created=st.integers(0, 200_000),
    moments=st.tuples(_MOMENTS, _MOMENTS, _MOMENTS, _MOMENTS),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    waiting=st.none() | st.integers(0, 3),
)
def test_plan_is_sane_whatever_is_known(
    state: JobState,
    created: int,
    moments: tuple[datetime | None, ...],
    flags: tuple[bool, bool, bool],
    waiting: int | None,
) -> None:
    """One thing at most is done about a job; nothing is rung that does not wait; no end is touched."""
    job = JobSight(
        job_id="j", host="alpha", state=state, created_at=ago(seconds=created), rung_at=moments[0],
        heard_at=moments[1], asked_at=moments[2], has_gaps=flags[0], is_cancelled=flags[1],
        new_host="beta" if flags[2] else None,
    )  # fmt: skip
    found = plan_pass([job], {"alpha": QueueSight(seen_at=moments[3], waiting=waiting)}, LIMITS, now=NOW)
    assert len(found.ring) + len(found.ask) + len(found.lose) <= 1
    assert not found.ring or state is JobState.QUEUED
    assert not found.lose or state not in FINAL
    if found.ring and job.rung_at is not None:
        assert NOW - job.rung_at >= LIMITS.ring_again
    if found.ask and job.asked_at is not None:
        assert NOW - job.asked_at >= LIMITS.ask_again
