"""How a job comes to its next attempt, or to an end that no host has told."""

from typing import Any

import pytest
from sqlalchemy import select

from tasks.catalog import Catalog, models, queries
from tasks.host_event import EventKind
from tasks.states import JobState
from tests.contract.catalog_scene import add_job, apply, at, event, inventory, one

UNKNOWN = event(None, EventKind.UNKNOWN, {})
MOVED = {"domain_uuid": "u-web-1", "target": "u-web-1", "domain_name": "web-1"}
RUNNING = event(1, EventKind.STATE, {"state": "running", "reason": None}, after_seq=0)


def move_domain(catalog: Catalog) -> None:
    """Let web-1 be gone from alpha and on beta."""
    apply(catalog, inventory(5, [], libvirt_up=True))
    apply(catalog, inventory(5, ["web-1"], host="beta", libvirt_up=True), host="beta")


def attempts(catalog: Catalog) -> list[tuple[int, str, str]]:
    """Return number, host and state of each attempt."""
    with catalog.read() as session:
        rows = session.scalars(select(models.Attempt).order_by(models.Attempt.number)).all()
        return [(row.number, row.host, row.state) for row in rows]


def test_job_goes_after_its_domain(catalog: Catalog) -> None:
    """Once its host has given it back: another host, another attempt, not rung for yet; it says why."""
    add_job(catalog, rung_at=at(1), **MOVED)
    move_domain(catalog)
    assert apply(catalog, UNKNOWN) == [True]
    job = one(catalog)
    assert (job.state, job.host, job.attempt, job.rung_at) == (JobState.QUEUED, "beta", 2, None)
    assert attempts(catalog) == [(1, "alpha", "cancelled")]
    [told] = queries.list_job_events(catalog, "j1")
    assert (told.seq, told.attempt, told.kind, told.body["host"]) == (0, 2, "attempt", "beta")
    assert told.body["reason"] == "withdrawn from alpha: the domain is on beta now"


def test_old_host_loses_its_late_claim(catalog: Catalog) -> None:
    """Whatever it says of the attempt it had; what it may have saved is found all the same."""
    add_job(catalog, **MOVED)
    move_domain(catalog)
    apply(catalog, UNKNOWN)
    result = {"path": "/s/late", "bytes": 9, "domain": "web-1"}
    late = event(2, EventKind.STATE, {"state": "succeeded", "reason": None, "result": result})
    assert apply(catalog, RUNNING, late, late) == [True, True, False]
    job = one(catalog)
    assert (job.state, job.host, job.attempt, job.started_at) == (JobState.QUEUED, "beta", 2, None)
    [point] = queries.list_restore_points(catalog)
    assert (point.host, point.path) == ("alpha", "/s/late")
    # Nor may it speak of the attempt that it never had.
    assert apply(catalog, event(1, EventKind.STATE, {"state": "lost"}, attempt=2)) == [False]


def test_new_host_tells_its_own_story_from_number_one(catalog: Catalog) -> None:
    """Numbers of the old host's story do not hide it."""
    add_job(catalog, **MOVED)
    move_domain(catalog)
    apply(catalog, UNKNOWN, RUNNING)
    story = [
        event(1, EventKind.STATE, {"state": "running", "reason": None}, host="beta", attempt=2),
        event(2, EventKind.STEP, {"step": "stream"}, host="beta", attempt=2),
        event(3, EventKind.STATE, {"state": "failed", "reason": "x"}, host="beta", attempt=2),
    ]
    assert apply(catalog, *story, host="beta") == [True, True, True]
    assert (one(catalog).state, one(catalog).step) == (JobState.FAILED, "stream")
    assert attempts(catalog) == [(1, "alpha", "cancelled"), (2, "beta", "failed")]


def test_unknown_said_twice_makes_one_attempt(catalog: Catalog) -> None:
    """The second is about an attempt that is over."""
    add_job(catalog, **MOVED)
    move_domain(catalog)
    assert apply(catalog, UNKNOWN, UNKNOWN) == [True, False]
    assert one(catalog).attempt == 2


def test_job_whose_domain_has_not_moved_is_tried_where_it_was(catalog: Catalog) -> None:
    """With another attempt: its host will not claim the one it has disowned."""
    add_job(catalog, **MOVED)
    apply(catalog, inventory(5, ["web-1"], libvirt_up=True), UNKNOWN)
    assert (one(catalog).host, one(catalog).attempt, one(catalog).state) == ("alpha", 2, JobState.QUEUED)


def test_job_waits_while_the_new_host_is_busy_with_the_domain(catalog: Catalog) -> None:
    """One unfinished job a domain, there too; asked again, its host says the same."""
    add_job(catalog, **MOVED)
    add_job(catalog, "other", host="beta", target="u-web-1")
    move_domain(catalog)
    assert apply(catalog, UNKNOWN) == [False]
    assert (one(catalog).host, one(catalog).attempt) == ("alpha", 1)
    with catalog.write() as session:
        other = session.get(models.Job, "other")
        assert other is not None
        other.state = str(JobState.FAILED)
    assert apply(catalog, UNKNOWN) == [True]
    assert one(catalog).host == "beta"


def test_job_that_its_host_does_not_know_any_more_is_lost(catalog: Catalog) -> None:
    """If it had begun: nobody else can say what became of it."""
    add_job(catalog)
    apply(catalog, RUNNING)
    assert apply(catalog, UNKNOWN) == [True]
    job = one(catalog)
    assert job.state is JobState.LOST
    assert job.reason is not None
    assert "alpha does not know the job any more" in job.reason
    assert [told.seq for told in queries.list_job_events(catalog, "j1")] == [0, 1]
    assert attempts(catalog) == [(1, "alpha", "lost")]


def test_cancelled_job_that_nobody_had_begun_is_cancelled(catalog: Catalog) -> None:
    """Nobody will begin it."""
    add_job(catalog, cancel_requested_at=at(1))
    apply(catalog, UNKNOWN)
    assert one(catalog).state is JobState.CANCELLED


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "lost"])
def test_end_stays_whatever_a_host_does_not_know(catalog: Catalog, state: str) -> None:
    """It is only believed that there is no more to be told."""
    add_job(catalog, state=state, gaps=2)
    assert apply(catalog, UNKNOWN) == [True]
    assert one(catalog).state == state
    assert apply(catalog, UNKNOWN) == [False]


def test_nobody_else_can_disown_a_job(catalog: Catalog) -> None:
    """Neither another host nor for another attempt."""
    add_job(catalog)
    apply(catalog, RUNNING)
    assert apply(catalog, event(None, EventKind.UNKNOWN, {}, host="beta"), host="beta") == [False]
    assert apply(catalog, event(None, EventKind.UNKNOWN, {}, attempt=2)) == [False]
    assert one(catalog).state is JobState.RUNNING


def test_success_of_a_job_given_up_leaves_its_image_known(catalog: Catalog) -> None:
    """The end stays; the image can be restored."""
    add_job(catalog)
    apply(catalog, RUNNING, UNKNOWN)
    result = {"path": "/s/p", "bytes": 9}
    apply(catalog, event(7, EventKind.STATE, {"state": "succeeded", "result": result}))
    assert one(catalog).state is JobState.LOST
    assert [point.path for point in queries.list_restore_points(catalog)] == ["/s/p"]


def gaps(catalog: Catalog) -> int:
    """Return how many events are known to be missing."""
    with catalog.read() as session:
        job = session.get(models.Job, "j1")
        assert job is not None
        return job.gaps


def test_missing_events_are_noticed_until_they_come(catalog: Catalog) -> None:
    """By the number of the one before; progress has numbers too and is not missed."""
    add_job(catalog)
    story: list[tuple[int, int, EventKind, dict[str, Any]]] = [
        (1, 0, EventKind.STATE, {"state": "running", "reason": None}),
        (3, 1, EventKind.STEP, {"step": "stream"}),
        (4, 3, EventKind.STATE, {"state": "committing", "reason": None}),
        (6, 4, EventKind.STATE, {"state": "succeeded", "reason": None, "result": {}}),
    ]
    events = [event(seq, kind, body, after_seq=before) for seq, before, kind, body in story]
    apply(catalog, events[0])
    assert gaps(catalog) == 0
    apply(catalog, events[3])
    assert (gaps(catalog), one(catalog).state) == (1, JobState.SUCCEEDED)
    apply(catalog, events[2])
    assert gaps(catalog) == 1
    apply(catalog, events[1])
    assert gaps(catalog) == 0
