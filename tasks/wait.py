"""Wait for what becomes of jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from celery import Celery
from redis import Redis
from redis.exceptions import RedisError

from engine.errors import TryAgainError
from tasks.catalog import Catalog, JobView, queries
from tasks.errors import BrokerError
from tasks.events import apply_events
from tasks.retry import ring_due

#: Seconds between two looks while jobs run.
POLL_SECONDS: Final = 0.2


def wait_jobs(
    catalog: Catalog,
    redis: Redis,
    job_ids: Sequence[str],
    *,
    timeout_seconds: float | None = None,
    poll_seconds: float = POLL_SECONDS,
    app: Celery | None = None,
) -> Iterator[JobView]:
    """Yield each job now, then again whenever it has changed, until all are final.

    Applies the hosts' events to the catalog itself, so it needs no control plane to be running. Holds no
    lock and no transaction while it waits or yields: leaving it (Ctrl-C) disturbs nothing. An unreachable
    Redis is waited for.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        job_ids: ids that the catalog knows; others are passed over.
        timeout_seconds: None waits for ever.
        poll_seconds: between two looks.
        app: of `tasks.app.make_app`: rings for next attempts once they are due; None: somebody else does.

    Raises:
        TryAgainError: the time is over; the jobs go on.
        BrokerError: the catalog cannot be reached.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    seen: dict[str, JobView] = {}
    while True:
        waiting = [job for job in seen.values() if not job.is_final]
        reached = _apply_quietly(catalog, redis, sorted({job.host for job in waiting}))
        if app is not None and any(job.due_at is not None for job in waiting):
            reached = _ring_quietly(catalog, app) and reached
        for job in sorted(queries.find_jobs(catalog, job_ids), key=lambda job: job.created_at):
            if seen.get(job.job_id) != job:
                seen[job.job_id] = job
                yield job
        unfinished = [job.job_id for job in seen.values() if not job.is_final]
        if not unfinished:
            return
        if deadline is not None and time.monotonic() >= deadline:
            found = f"{len(unfinished)} of {len(seen)} jobs unfinished after {timeout_seconds} s"
            raise TryAgainError("jobs", found, hint="" if reached else "Redis does not answer")
        time.sleep(poll_seconds)


def _apply_quietly(catalog: Catalog, redis: Redis, hosts: Sequence[str]) -> bool:
    """Apply what the hosts said; tell whether Redis could be asked."""
    try:
        apply_events(catalog, redis, hosts)
    except RedisError:
        return False
    return True


def _ring_quietly(catalog: Catalog, app: Celery) -> bool:
    """Ring for attempts that are due; tell whether that could be done."""
    try:
        ring_due(catalog, app, datetime.now(UTC))
    except BrokerError:
        return False
    return True
