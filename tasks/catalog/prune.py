"""Forget old history: jobs that ended long ago, with their events and attempts; never a restore point."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, select

from tasks.catalog import models
from tasks.catalog.connection import Catalog
from tasks.states import FINAL

#: Jobs in one transaction: nobody waits long for it.
BATCH_COUNT: Final = 500
#: Batches in one call, so that it ends; the next call goes on.
_BATCHES_MAX: Final = 20_000

_FINAL: Final = [str(state) for state in sorted(FINAL)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How much history was, or would be, forgotten."""

    jobs: int = 0
    attempts: int = 0
    events: int = 0


def count_prunable(catalog: Catalog, *, before: datetime) -> Pruned:
    """Return how much history `prune` would forget."""
    job = models.Job
    is_old = (job.finished_at < before, job.state.in_(_FINAL))
    with catalog.read() as session:

        def count(table: type[models.Attempt | models.JobEvent]) -> int:
            query = select(func.count()).select_from(table).join(job, table.job_id == job.id).where(*is_old)
            return session.scalar(query) or 0

        jobs = session.scalar(select(func.count()).select_from(job).where(*is_old)) or 0
        return Pruned(jobs=jobs, attempts=count(models.Attempt), events=count(models.JobEvent))


def prune(catalog: Catalog, *, before: datetime, batch_count: int = BATCH_COUNT) -> Pruned:
    """Forget jobs that ended before the moment, the oldest first, in transactions of a bounded size.

    Restore points stay; they forget which job made them. Safe to interrupt, and beside everything else.
    """
    jobs = attempts = events = 0
    for _ in range(_BATCHES_MAX):
        batch = _prune_batch(catalog, before=before, limit=batch_count)
        jobs, attempts, events = jobs + batch.jobs, attempts + batch.attempts, events + batch.events
        if batch.jobs < batch_count:
            break
    return Pruned(jobs=jobs, attempts=attempts, events=events)


def _prune_batch(catalog: Catalog, *, before: datetime, limit: int) -> Pruned:
    """Forget some jobs in one transaction."""
    job = models.Job
    with catalog.write() as session:
        query = select(job.id).where(job.finished_at < before, job.state.in_(_FINAL))
        # A job in a final state stays in it: nobody has to be kept from changing these.
        ids = list(session.scalars(query.order_by(job.finished_at).limit(limit)))
        counts = [
            session.scalar(select(func.count()).where(table.job_id.in_(ids))) or 0
            for table in (models.JobEvent, models.Attempt)
        ]
        session.execute(delete(job).where(job.id.in_(ids)).execution_options(synchronize_session=False))
        return Pruned(jobs=len(ids), events=counts[0], attempts=counts[1])
