"""Answer what people and programs ask the catalog; every answer is bounded."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import or_, select

from tasks.catalog import models
from tasks.catalog.connection import Catalog
from tasks.catalog.views import (
    DomainView,
    EventView,
    HostView,
    JobView,
    RestorePointView,
    SubmissionView,
)
from tasks.errors import UsageError
from tasks.states import JobState

#: Rows, where the caller names no other bound.
LIMIT_DEFAULT: Final = 10_000


def find_job(catalog: Catalog, job_id: str) -> JobView | None:
    """Return the job with that id."""
    with catalog.read() as session:
        row = session.get(models.Job, job_id)
        return JobView.of(row) if row else None


def find_jobs(catalog: Catalog, job_ids: Collection[str]) -> list[JobView]:
    """Return the jobs with these ids, in no order; ids that nobody knows are left out."""
    views: list[JobView] = []
    wanted = sorted(job_ids)
    with catalog.read() as session:
        # SQLite takes a bounded number of parameters in one statement.
        for start in range(0, len(wanted), 500):
            rows = session.scalars(select(models.Job).where(models.Job.id.in_(wanted[start : start + 500])))
            views.extend(JobView.of(row) for row in rows)
    return views


def find_jobs_beginning(catalog: Catalog, beginning: str, *, limit: int = 2) -> list[JobView]:
    """Return jobs whose ids begin so: by default as many as tell whether there is exactly one."""
    query = select(models.Job).where(models.Job.id.startswith(beginning, autoescape=True)).limit(limit)
    with catalog.read() as session:
        return [JobView.of(row) for row in session.scalars(query)]


def list_jobs(
    catalog: Catalog,
    *,
    states: Collection[JobState] = (),
    host: str | None = None,
    domain: str | None = None,
    run_id: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[JobView]:
    """Return jobs, newest first.

    Args:
        catalog: the catalog.
        states: only these; none given: all.
        host: only this host's.
        domain: only this domain's: name or UUID.
        run_id: only this run's.
        limit: rows at most.
    """
    query = select(models.Job).order_by(models.Job.created_at.desc(), models.Job.id).limit(limit)
    if states:
        query = query.where(models.Job.state.in_([str(state) for state in states]))
    if host is not None:
        query = query.where(models.Job.host == host)
    if domain is not None:
        names = (models.Job.domain, models.Job.domain_name, models.Job.domain_uuid)
        query = query.where(or_(*(column == domain for column in names)))
    if run_id is not None:
        query = query.where(models.Job.run_id == run_id)
    with catalog.read() as session:
        return [JobView.of(row) for row in session.scalars(query)]


def list_job_events(catalog: Catalog, job_id: str, *, limit: int = LIMIT_DEFAULT) -> list[EventView]:
    """Return what its hosts said about the job, and what the control side decided, oldest first."""
    query = select(models.JobEvent).where(models.JobEvent.job_id == job_id)
    with catalog.read() as session:
        return [
            EventView.of(row)
            for row in session.scalars(
                query.order_by(models.JobEvent.attempt, models.JobEvent.at, models.JobEvent.seq).limit(limit)
            )
        ]


def list_hosts(catalog: Catalog, *, limit: int = LIMIT_DEFAULT) -> list[HostView]:
    """Return the hosts that ever reported, by name."""
    with catalog.read() as session:
        return [
            HostView.of(row)
            for row in session.scalars(select(models.Host).order_by(models.Host.name).limit(limit))
        ]


def find_capabilities(catalog: Catalog, host: str) -> dict[str, Any] | None:
    """Return what a host says it can run; None where it never said.

    Raises:
        UsageError: nobody knows the host.
    """
    with catalog.read() as session:
        row = session.get(models.Host, host)
        if row is None:
            raise UsageError(
                f"host {host}", "never reported", "a host of the fleet", "see fleetsave hosts list"
            )
        return row.capabilities


def list_domains(
    catalog: Catalog, *, host: str | None = None, name_or_uuid: str | None = None, limit: int = LIMIT_DEFAULT
) -> list[DomainView]:
    """Return the domains as last seen, by name, then host."""
    query = select(models.Domain).order_by(models.Domain.name, models.Domain.host).limit(limit)
    if host is not None:
        query = query.where(models.Domain.host == host)
    if name_or_uuid is not None:
        query = query.where(
            or_(models.Domain.name == name_or_uuid, models.Domain.uuid == name_or_uuid.lower())
        )
    with catalog.read() as session:
        return [DomainView.of(row) for row in session.scalars(query)]


def list_restore_points(
    catalog: Catalog,
    *,
    host: str | None = None,
    domain: str | None = None,
    path: str | None = None,
    limit: int = LIMIT_DEFAULT,
) -> list[RestorePointView]:
    """Return restore points, newest first.

    Args:
        catalog: the catalog.
        host: only this host's.
        domain: only this domain's: name or UUID.
        path: only the one at this path (of several hosts, if the path exists on several).
        limit: rows at most.
    """
    point = models.RestorePoint
    query = select(point).order_by(point.taken_at.desc(), point.host, point.path).limit(limit)
    if host is not None:
        query = query.where(point.host == host)
    if domain is not None:
        query = query.where(or_(point.domain_name == domain, point.domain_uuid == domain.lower()))
    if path is not None:
        query = query.where(point.path == path)
    with catalog.read() as session:
        return [RestorePointView.of(row) for row in session.scalars(query)]


def find_submission(catalog: Catalog, run_id: str) -> SubmissionView | None:
    """Return what became of a signed submission; None: it has not arrived, or its signature was wrong."""
    row = models.Submission
    with catalog.read() as session:
        found = session.scalars(select(row).where(row.run_id == run_id, row.is_authentic)).first()
        return SubmissionView.of(found) if found else None


def list_submissions(catalog: Catalog, *, limit: int = LIMIT_DEFAULT) -> list[SubmissionView]:
    """Return what came over Celery, refused and unsigned requests included, newest first."""
    query = select(models.Submission).order_by(models.Submission.id.desc()).limit(limit)
    with catalog.read() as session:
        return [SubmissionView.of(row) for row in session.scalars(query)]
