"""Give a job its next attempt, or its end, where its host says that it does not know the one before.

A job changes its host only so: the host has said that it does not know the attempt, and has written down that
it will never claim it (tasks.journal). So no two hosts ever hold the same attempt, nor two attempts of a job.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from tasks.catalog import models
from tasks.catalog.points import remember_point
from tasks.catalog.upsert import insert_missing
from tasks.envelope import ATTEMPTS_MAX
from tasks.host_event import EventKind, HostEvent
from tasks.placement import HostSight, find_new_host, may_move
from tasks.states import FINAL, UNFINISHED, JobState

#: Kind of the event that says why there is another attempt.
ATTEMPT_KIND: Final = "attempt"


def is_attempt_of(session: Session, job: models.Job, host: str, event: HostEvent) -> bool:
    """Tell whether the host may speak of the attempt: the job's own host, and who had an earlier attempt."""
    if job.host == host:
        return True
    attempt = session.get(models.Attempt, (job.id, event.attempt))
    return attempt is not None and attempt.host == host


def apply_overtaken(session: Session, job: models.Job, host: str, event: HostEvent) -> bool:
    """Keep what a host says of an attempt that was taken from it; the job's state is not its to change.

    A host that has said that it would never claim it does so only where it lost its journal. An image that it
    made is there all the same.
    """
    if event.kind in {EventKind.PROGRESS, EventKind.UNKNOWN}:
        return False
    assert event.attempt is not None
    is_new = insert_missing(
        session, models.JobEvent, job_id=job.id, attempt=event.attempt, seq=event.seq,
        after_seq=event.after_seq, at=event.at, kind=str(event.kind), body=event.body,
    )  # fmt: skip
    result = event.body.get("result")
    if is_new and event.body.get("state") == JobState.SUCCEEDED and isinstance(result, dict):
        remember_point(session, job, host, result, event.at)
    return is_new


def apply_unknown(session: Session, job: models.Job, event: HostEvent, *, now: datetime) -> bool:
    """Act on a host's word that it does not know the job's present attempt and will never claim it."""
    if event.attempt != job.attempt:
        return False
    state = JobState(job.state)
    if state in FINAL:
        # What was not seen of it will never be.
        had_gaps, job.gaps = job.gaps > 0, 0
        return had_gaps
    if state is not JobState.QUEUED:
        reason = (
            f"host {job.host} does not know the job any more: its journal is lost;"
            f" look at the domain there, and at fleetsave doctor"
        )
        close_job(session, job, JobState.LOST, reason, now=now)
    elif job.cancel_requested_at is not None:
        close_job(session, job, JobState.CANCELLED, "cancelled before the host had begun", now=now)
    elif job.attempt >= ATTEMPTS_MAX:
        close_job(session, job, JobState.FAILED, f"given up after {job.attempt} attempts", now=now)
    else:
        return _begin_attempt(session, job, now=now)
    return True


def close_job(session: Session, job: models.Job, state: JobState, reason: str, *, now: datetime) -> None:
    """End a job by the control side's own decision."""
    job.state, job.reason, job.finished_at, job.gaps = str(state), reason, now, 0
    _close_attempt(session, job, state, reason, now=now)
    _record_decision(session, job, EventKind.STATE, {"state": str(state), "reason": reason}, now=now)


def count_gaps(session: Session, job_id: str) -> int:
    """Return how many of a job's events name one before them that was never seen."""
    event, before = models.JobEvent, aliased(models.JobEvent)
    is_seen = (
        select(before.seq)
        .where(before.job_id == event.job_id, before.seq == event.after_seq, before.attempt <= event.attempt)
        .exists()
    )
    query = select(func.count()).where(event.job_id == job_id, event.after_seq > 0, ~is_seen)
    return session.scalar(query) or 0


def find_new_hosts(session: Session, jobs: list[models.Job]) -> dict[str, str]:
    """Return, by job id, the host that the job's domain has moved to, for those whose has."""
    wanted = {job.domain_uuid for job in jobs if job.domain_uuid and may_move(job.op, job.params)}
    holders: dict[str, list[str]] = {}
    names = {job.host for job in jobs}
    for start in range(0, len(ordered := sorted(wanted)), 500):
        query = select(models.Domain.uuid, models.Domain.host)
        for uuid, host in session.execute(query.where(models.Domain.uuid.in_(ordered[start : start + 500]))):
            holders.setdefault(uuid, []).append(host)
            names.add(host)
    sights = {
        name: HostSight(seen_at=seen_at, libvirt_up=libvirt_up)
        for name, seen_at, libvirt_up in session.execute(
            select(models.Host.name, models.Host.seen_at, models.Host.libvirt_up).where(
                models.Host.name.in_(sorted(names))
            )
        )
    }
    found = {
        job.id: find_new_host(
            job.host, holders=holders.get(job.domain_uuid, []), hosts=sights, since=job.created_at
        )
        for job in jobs
        if job.domain_uuid in wanted and may_move(job.op, job.params)
    }
    return {job_id: host for job_id, host in found.items() if host is not None}


def _begin_attempt(session: Session, job: models.Job, *, now: datetime) -> bool:
    """Make the next attempt: on the host that has the domain now, if that is another one."""
    host = find_new_hosts(session, [job]).get(job.id, job.host)
    if host != job.host and _is_busy(session, host, job.target):
        # Asked again later, it will have the same to say.
        return False
    moved = f"the domain is on {host} now" if host != job.host else "it had not begun"
    reason = f"withdrawn from {job.host}: {moved}"
    _close_attempt(session, job, JobState.CANCELLED, reason, now=now)
    job.host, job.attempt, job.rung_at, job.asked_at = host, job.attempt + 1, None, None
    job.step, job.step_seq, job.bytes_done, job.bytes_total, job.progress_seq = None, 0, None, None, 0
    _record_decision(session, job, ATTEMPT_KIND, {"host": host, "reason": reason}, now=now)
    return True


def _is_busy(session: Session, host: str, target: str) -> bool:
    """Tell whether an unfinished job of the host holds the target."""
    query = select(models.Job.id).where(
        models.Job.host == host,
        models.Job.target == target,
        models.Job.state.in_([str(state) for state in UNFINISHED]),
    )
    return session.scalars(query.limit(1)).first() is not None


def _close_attempt(session: Session, job: models.Job, state: JobState, reason: str, *, now: datetime) -> None:
    """End the job's present attempt."""
    insert_missing(
        session, models.Attempt, job_id=job.id, number=job.attempt, host=job.host, state=str(JobState.QUEUED)
    )
    attempt = session.get(models.Attempt, (job.id, job.attempt))
    assert attempt is not None
    attempt.state, attempt.finished_at, attempt.reason = str(state), now, reason


def _record_decision(
    session: Session, job: models.Job, kind: str, body: dict[str, Any], *, now: datetime
) -> None:
    """Write down what the control side decided, among the job's events: numbers below 1 are its own."""
    event = models.JobEvent
    session.flush()
    query = select(func.min(event.seq)).where(event.job_id == job.id, event.attempt == job.attempt)
    seq = min(1, session.scalar(query) or 1) - 1
    session.add(event(job_id=job.id, attempt=job.attempt, seq=seq, at=now, kind=str(kind), body=body))
    session.flush()
