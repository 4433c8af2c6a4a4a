"""Submit jobs: rows first, then doorbells."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from engine.errors import DomainBusyError
from tasks.catalog import Catalog, JobView, models, queries
from tasks.doorbell import ring_doorbells
from tasks.envelope import check_job
from tasks.errors import RefusedJobError, UsageError
from tasks.locate import DomainRef, locate_domain, locate_image
from tasks.states import UNFINISHED, JobState

__all__ = ["DomainRef", "submit"]


def submit(
    catalog: Catalog,
    app: Celery,
    *,
    op: str,
    domains: Sequence[DomainRef],
    params: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    retry_of: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[JobView]:
    """Make one job for each domain and ring at its host; return the jobs, in the order of the domains.

    All rows or none are made, in one transaction; the doorbells follow.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        app: of `tasks.app.make_app`.
        op: save, checkpoint, restore, managed-save, managed-save-remove, start or dump.
        domains: which; each of them once.
        params: what `tasks.params.OPERATION_PARAMS` allows for the operation, the same for all.
        run_id: what the jobs have in common, for looking them up.
        retry_of: the job that they do again.
        now: clock.

    Raises:
        UsageError: operation, parameters or host make no sense, or a domain name is on several hosts.
        NoDomainError: no host has reported such a domain.
        DomainBusyError: an unfinished job holds one of the domains.
        BrokerError: with job_ids: the rows are there and stay queued, but not every doorbell could be rung;
            without: the catalog cannot be reached.
    """
    wanted = dict(params or {})
    for ref in domains:
        try:
            check_job(op, ref.domain, wanted)
        except RefusedJobError as error:
            raise UsageError(error.where, error.found, error.wanted, error.hint) from error
    moment = now()
    try:
        with catalog.write() as session:
            rows = [_make_row(session, op, ref, params=wanted, now=moment) for ref in domains]
            for row in rows:
                row.run_id, row.retry_of = run_id, retry_of
            views = [JobView.of(row) for row in rows]
    except IntegrityError as error:
        raise DomainBusyError(op, "another job took one of the domains at the same moment") from error
    ring_doorbells(catalog, app, views, now=moment)
    rung = {view.job_id: view for view in queries.find_jobs(catalog, [view.job_id for view in views])}
    return [rung[view.job_id] for view in views]


def _make_row(
    session: Session, op: str, ref: DomainRef, *, params: dict[str, Any], now: datetime
) -> models.Job:
    """Add the row of one job, or say why there can be none."""
    host, name, domain_uuid = (
        locate_image(session, ref, params) if op == "restore" else locate_domain(session, ref)
    )
    target = domain_uuid or name or str(params.get("path"))
    busy = _find_busy(session, host, target)
    if busy is not None:
        raise DomainBusyError(
            f"domain {name or target} on {host}",
            f"job {busy} is not finished",
            hint=f"fleetsave jobs show {busy}",
        )
    row = models.Job(
        id=uuid.uuid4().hex,
        op=op,
        host=host,
        domain=ref.domain,
        domain_name=name,
        domain_uuid=domain_uuid,
        target=target,
        params=params,
        state=str(JobState.QUEUED),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def _find_busy(session: Session, host: str, target: str) -> str | None:
    """Return the id of the unfinished job that holds the target, if one does."""
    query = select(models.Job.id).where(
        models.Job.host == host,
        models.Job.target == target,
        models.Job.state.in_([str(state) for state in UNFINISHED]),
    )
    return session.scalars(query.limit(1)).first()
