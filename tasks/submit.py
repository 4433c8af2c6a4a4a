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

__all__ = ["DomainRef", "make_jobs", "submit"]


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
    moment = now()
    with catalog.write() as session:
        views = make_jobs(
            session, op=op, domains=domains, params=params or {}, run_id=run_id, retry_of=retry_of, now=moment
        )
    ring_doorbells(catalog, app, views, now=moment)
    rung = {view.job_id: view for view in queries.find_jobs(catalog, [view.job_id for view in views])}
    return [rung[view.job_id] for view in views]


def make_jobs(
    session: Session,
    *,
    op: str,
    domains: Sequence[DomainRef],
    params: Mapping[str, Any],
    run_id: str | None,
    retry_of: str | None = None,
    now: datetime,
) -> list[JobView]:
    """Add the rows of one job for each domain to the caller's transaction; nobody has rung for them yet.

    Raises:
        UsageError, NoDomainError, DomainBusyError: as for `submit`.
    """
    wanted = dict(params)
    for ref in domains:
        try:
            check_job(op, ref.domain, wanted)
        except RefusedJobError as error:
            raise UsageError(error.where, error.found, error.wanted, error.hint) from error
    try:
        rows = [_make_row(session, op, ref, params=wanted, now=now) for ref in domains]
        for row in rows:
            row.run_id, row.retry_of = run_id, retry_of
        session.flush()
    except IntegrityError as error:
        raise DomainBusyError(op, "another job took one of the domains at the same moment") from error
    return [JobView.of(row) for row in rows]


def _make_row(
    session: Session, op: str, ref: DomainRef, *, params: dict[str, Any], now: datetime
) -> models.Job:
    """Add the row of one job, or say why there can be none."""
    host, name, domain_uuid = (
        locate_image(session, ref, params) if op == "restore" else locate_domain(session, ref)
    )
    if params.get("new_name"):
        # A copy is a domain of its own: whatever runs on the original is no obstacle.
        name, domain_uuid = params["new_name"], None
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
