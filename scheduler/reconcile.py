"""Decide what to do about jobs that do not get on: ring again, ask their host, give them up.

Pure: equal input gives equal plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tasks.doorbell import DOORBELL_LIFETIME
from tasks.states import FINAL, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When something is too long, and how much is done in one pass."""

    #: How long whoever made a row has to ring for it himself.
    ring_grace: timedelta = timedelta(seconds=10)
    #: How long a doorbell may go unheard by a host that hears, before it is rung again.
    ring_again: timedelta = timedelta(minutes=2)
    #: How long a host may say nothing about a job that runs.
    silence: timedelta = timedelta(minutes=2)
    #: Between two questions about one job.
    ask_again: timedelta = timedelta(minutes=1)
    #: How long a host may say nothing at all before it is taken for down, and nothing is asked of it.
    host_down: timedelta = timedelta(minutes=3)
    #: How long a host may say nothing at all before its jobs are given up.
    host_gone: timedelta = timedelta(hours=24)
    #: Doorbells and questions of one pass at most.
    rings_max: int = 500
    asks_max: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSight:
    """What is known of one job."""

    job_id: str
    host: str
    state: JobState
    created_at: datetime
    rung_at: datetime | None = None
    #: When the next attempt may begin; None: at once.
    due_at: datetime | None = None
    #: When its host last said anything about it.
    heard_at: datetime | None = None
    asked_at: datetime | None = None
    #: Some of what its host said about it was never seen.
    has_gaps: bool = False
    #: Somebody wants it to stop.
    is_cancelled: bool = False
    #: The host that its domain has moved to.
    new_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSight:
    """What is known of one host."""

    #: When it last said anything.
    seen_at: datetime | None
    #: Messages that wait in its queue; None: Redis does not say.
    waiting: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, by job id."""

    ring: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    #: Job id and, as a sentence, why it is given up.
    lose: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Draft:
    """A plan while it is made."""

    ring: list[str] = field(default_factory=list)
    ask: list[str] = field(default_factory=list)
    lose: list[tuple[str, str]] = field(default_factory=list)


def plan_pass(
    jobs: Iterable[JobSight], hosts: Mapping[str, QueueSight], limits: Limits, *, now: datetime
) -> Plan:
    """Return what one pass does about these jobs.

    Args:
        jobs: unfinished ones, and finished ones of which something was not seen.
        hosts: every host of theirs; one that is not there has never said anything.
        limits: when something is too long.
        now: clock, aware.
    """
    draft = _Draft()
    unknown = QueueSight(seen_at=None)
    for job in jobs:
        host = hosts.get(job.host, unknown)
        is_up = host.seen_at is not None and now - host.seen_at < limits.host_down
        reason = _find_loss(job, host, limits, now)
        if reason is not None:
            draft.lose.append((job.job_id, reason))
        elif is_up and len(draft.ask) < limits.asks_max and _needs_asking(job, limits, now):
            draft.ask.append(job.job_id)
        elif len(draft.ring) < limits.rings_max and _needs_ringing(job, host, limits, now):
            draft.ring.append(job.job_id)
    return Plan(ring=tuple(draft.ring), ask=tuple(draft.ask), lose=tuple(draft.lose))


def _find_loss(job: JobSight, host: QueueSight, limits: Limits, now: datetime) -> str | None:
    """Return why the job is given up, if it is."""
    if job.state in FINAL:
        return None
    last = max(moment for moment in (job.created_at, job.heard_at, host.seen_at) if moment is not None)
    if now - last < limits.host_gone:
        return None
    if job.state is JobState.QUEUED and job.rung_at is not None and now < job.rung_at + DOORBELL_LIFETIME:
        # The host may still come back and hear a doorbell that is good.
        return None
    hours = limits.host_gone / timedelta(hours=1)
    doing = "was never seen to begin" if job.state is JobState.QUEUED else f"was {job.state} then"
    return (
        f"host {job.host} has said nothing for {hours:g} h, since {last:%Y-%m-%d %H:%M} UTC; the job {doing}:"
        f" look at the domain there"
    )


def _needs_asking(job: JobSight, limits: Limits, now: datetime) -> bool:
    """Tell whether the job's host is to say what it knows about it."""
    if job.asked_at is not None and now - job.asked_at < limits.ask_again:
        return False
    if job.has_gaps:
        return True
    if job.state is JobState.QUEUED:
        return job.is_cancelled or job.new_host is not None
    return job.state not in FINAL and now - (job.heard_at or job.created_at) >= limits.silence


def _needs_ringing(job: JobSight, host: QueueSight, limits: Limits, now: datetime) -> bool:
    """Tell whether the job waits although no doorbell does."""
    if job.state is not JobState.QUEUED or job.is_cancelled or job.new_host is not None:
        return False
    due_at = job.due_at or job.created_at
    # A doorbell from before was for an earlier attempt.
    rung_at = None if job.rung_at is None or job.rung_at < due_at else job.rung_at
    if rung_at is None:
        return now - due_at >= limits.ring_grace
    if now >= rung_at + DOORBELL_LIFETIME:
        return True
    # A host that was not seen since has not heard the one that waits; where messages wait, it is among them.
    is_heard = host.seen_at is not None and host.seen_at > rung_at and host.waiting == 0
    return is_heard and now - rung_at >= limits.ring_again
