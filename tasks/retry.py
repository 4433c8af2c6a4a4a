"""Try jobs again: attempts that are due by themselves, finished jobs at somebody's wish."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from celery import Celery
from sqlalchemy import or_, select

from engine.errors import WrongStateError
from tasks.catalog import Catalog, JobView, models
from tasks.doorbell import ring_doorbells
from tasks.limits import is_repeatable
from tasks.locate import DomainRef
from tasks.states import JobState
from tasks.submit import submit


def ring_due(catalog: Catalog, app: Celery, now: datetime) -> list[JobView]:
    """Ring for every job whose next attempt is due and was not rung for; return those jobs.

    Any number of processes may call it at once: an attempt is claimed once.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        app: of `tasks.app.make_app`.
        now: aware.

    Raises:
        BrokerError: not every doorbell could be rung, or the catalog cannot be reached.
    """
    job = models.Job
    query = select(job).where(
        job.state == str(JobState.QUEUED),
        job.due_at <= now,
        or_(job.rung_at.is_(None), job.rung_at < job.due_at),
    )
    with catalog.read() as session:
        due = [JobView.of(row) for row in session.scalars(query)]
    if due:
        ring_doorbells(catalog, app, due, now=now)
    return due


def retry_job(
    catalog: Catalog, app: Celery, job: JobView, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> JobView:
    """Submit a job anew that ended without success; the new job names the old one, which stays as it is.

    Raises:
        WrongStateError: it has not ended, or it succeeded, or its operation must not be repeated unseen.
        EngineError: as for `tasks.submit.submit`.
    """
    where = f"job {job.job_id}"
    if not job.is_final:
        hint = f"fleetsave jobs watch {job.job_id}"
        raise WrongStateError(where, f"it is {job.state}", "a job that has ended", hint)
    if job.state is JobState.SUCCEEDED:
        raise WrongStateError(where, "it succeeded", "a job that failed, was cancelled or lost")
    if not is_repeatable(job.op, job.params):
        raise WrongStateError(
            where, f"a {job.op} is not repeated unseen", "",
            f"look at the guest, then give the order again: fleetsave {job.op}",
        )  # fmt: skip
    ref = DomainRef(job.domain, job.host)
    [made] = submit(
        catalog, app, op=job.op, domains=[ref], params=job.params, run_id=job.run_id, retry_of=job.job_id,
        now=now,
    )  # fmt: skip
    return made
