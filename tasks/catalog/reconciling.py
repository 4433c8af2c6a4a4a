"""Find jobs that may need somebody's attention, and note once what was done about each."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, CursorResult, and_, func, or_, select, update
from sqlalchemy.orm import Session

from tasks.catalog import models
from tasks.catalog.connection import Catalog
from tasks.states import UNFINISHED, JobState

#: Where a walk through the unfinished jobs stands: time and id of the last one seen.
Cursor = tuple[datetime, str]

_UNFINISHED: Final = [str(state) for state in sorted(UNFINISHED)]


def list_unfinished(session: Session, *, after: Cursor | None, limit: int) -> list[models.Job]:
    """Return the next unfinished jobs, the oldest first."""
    job = models.Job
    query = select(job).where(job.state.in_(_UNFINISHED)).order_by(job.created_at, job.id).limit(limit)
    if after is not None:
        moment, job_id = after
        query = query.where(or_(job.created_at > moment, and_(job.created_at == moment, job.id > job_id)))
    return list(session.scalars(query))


def list_with_gaps(session: Session, *, asked_before: datetime, limit: int) -> list[models.Job]:
    """Return finished jobs of which something was not seen and whose host was not asked of late."""
    job = models.Job
    query = select(job).where(
        job.gaps > 0,
        job.state.not_in(_UNFINISHED),
        or_(job.asked_at.is_(None), job.asked_at <= asked_before),
    )
    return list(session.scalars(query.order_by(job.id).limit(limit)))


def note_rung(session: Session, job: models.Job, *, now: datetime) -> bool:
    """Note that a doorbell is about to be rung; False: somebody rang, or the job has moved on, meanwhile."""
    is_queued = models.Job.state == str(JobState.QUEUED)
    return _note(session, job, "rung_at", now, is_queued)


def note_not_rung(session: Session, job_ids: Collection[str], *, noted_at: datetime) -> None:
    """Take back that doorbells were rung which Redis did not take."""
    row = models.Job
    for job_id in job_ids:
        session.execute(update(row).where(row.id == job_id, row.rung_at == noted_at).values(rung_at=None))


def note_asked(session: Session, job: models.Job, *, now: datetime) -> bool:
    """Note that a host is about to be asked; False: somebody asked, or the job has moved on, meanwhile."""
    return _note(session, job, "asked_at", now)


def find_seen(session: Session, hosts: Collection[str]) -> dict[str, datetime | None]:
    """Return when each host last said anything."""
    host = models.Host
    rows = session.execute(select(host.name, host.seen_at).where(host.name.in_(sorted(hosts))))
    return {name: seen_at for name, seen_at in rows}  # noqa: C416 - rows are no pairs to a type checker


def count_states(catalog: Catalog) -> dict[JobState, int]:
    """Return how many jobs are in each state."""
    counts = dict.fromkeys(JobState, 0)
    with catalog.read() as session:
        for state, count in session.execute(
            select(models.Job.state, func.count()).group_by(models.Job.state)
        ):
            counts[JobState(state)] = count
    return counts


def find_oldest_queued(catalog: Catalog) -> dict[str, datetime]:
    """Return, by host, since when its oldest queued job waits."""
    job = models.Job
    query = select(job.host, func.min(job.created_at)).where(
        job.state.in_(_UNFINISHED), job.state == str(JobState.QUEUED)
    )
    with catalog.read() as session:
        return {host: created_at for host, created_at in session.execute(query.group_by(job.host))}  # noqa: C416


def _note(
    session: Session, job: models.Job, column: str, now: datetime, *conditions: ColumnElement[bool]
) -> bool:
    """Set a time of a job that is what it was when it was read; False: it is not any more."""
    row, before = models.Job, getattr(job, column)
    noted = getattr(row, column)
    result = session.execute(
        update(row)
        .where(
            row.id == job.id,
            row.host == job.host,
            row.attempt == job.attempt,
            noted == before if before is not None else noted.is_(None),
            *conditions,
        )
        .values({column: now})
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1
