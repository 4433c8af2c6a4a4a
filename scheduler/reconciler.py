"""Carry out what scheduler.reconcile decides: read, plan, note, then ring and ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from celery import Celery
from redis import Redis

from scheduler.reconcile import JobSight, Limits, Plan, QueueSight, plan_pass
from tasks.broker import first_queue_name, queue_name
from tasks.catalog import Catalog, JobView, models
from tasks.catalog.attempts import close_job, find_new_hosts
from tasks.catalog.leases import LeaseView, holds_lease
from tasks.catalog.reconciling import (
    Cursor,
    find_seen,
    list_unfinished,
    list_with_gaps,
    note_asked,
    note_not_rung,
    note_rung,
)
from tasks.doorbell import ring_doorbells
from tasks.errors import BrokerError
from tasks.question import Question, new_question, send_questions
from tasks.states import FINAL, JobState

#: Unfinished jobs that one pass looks at; the next goes on behind them.
_BATCH_COUNT: Final = 2000

_log: Final = structlog.get_logger(__name__)


class Reconciler:
    """Walks through the jobs that are not finished, a batch each pass.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        app: of `tasks.app.make_app`.
        limits: when something is too long.
    """

    def __init__(self, catalog: Catalog, redis: Redis, app: Celery, limits: Limits) -> None:
        self._catalog = catalog
        self._redis = redis
        self._app = app
        self._limits = limits
        self._cursor: Cursor | None = None

    def reconcile(self, lease: LeaseView | None, *, now: datetime) -> Plan:
        """Do one pass; return what was planned.

        Args:
            lease: nothing is changed once it has changed hands; None: nobody else is there.
            now: clock, aware.

        Raises:
            BrokerError: catalog or broker cannot be reached; the next pass does what is left.
            redis.RedisError: so it is.
        """
        with self._catalog.read() as session:
            jobs = list_unfinished(session, after=self._cursor, limit=_BATCH_COUNT)
            self._cursor = (jobs[-1].created_at, jobs[-1].id) if len(jobs) == _BATCH_COUNT else None
            asked_before = now - self._limits.ask_again
            jobs += list_with_gaps(session, asked_before=asked_before, limit=self._limits.asks_max)
            queued = [job for job in jobs if job.state == JobState.QUEUED]
            new_hosts = find_new_hosts(session, queued)
            seen = find_seen(session, {job.host for job in jobs})
        waiting = self._count_waiting(list(seen))
        hosts = {name: QueueSight(seen_at=at, waiting=waiting[name]) for name, at in seen.items()}
        sights = [_look_at(job, new_hosts.get(job.id)) for job in jobs]
        plan = plan_pass(sights, hosts, self._limits, now=now)
        by_id = {job.id: job for job in jobs}
        self._lose(plan, lease, now)
        self._ask([by_id[job_id] for job_id in plan.ask], lease, now)
        self._ring([by_id[job_id] for job_id in plan.ring], lease, now)
        return plan

    def _count_waiting(self, hosts: Sequence[str]) -> dict[str, int]:
        """Return how many messages wait for each host, in both of its queues."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for host in hosts:
                pipeline.llen(first_queue_name(host))
                pipeline.llen(queue_name(host))
            counts = pipeline.execute()
        return {host: counts[2 * index] + counts[2 * index + 1] for index, host in enumerate(hosts)}

    def _lose(self, plan: Plan, lease: LeaseView | None, now: datetime) -> None:
        """Give jobs up."""
        if not plan.lose:
            return
        with self._catalog.write() as session:
            if lease is not None and not holds_lease(session, lease):
                return
            for job_id, reason in plan.lose:
                job = session.get(models.Job, job_id, with_for_update=True)
                if job is not None and JobState(job.state) not in FINAL:
                    close_job(session, job, JobState.LOST, reason, now=now)
                    _log.warning("job given up", job_id=job_id, host=job.host, reason=reason)

    def _ask(self, jobs: Sequence[models.Job], lease: LeaseView | None, now: datetime) -> None:
        """Ask hosts what they know."""
        questions: list[Question] = []
        for job in self._note(jobs, lease, lambda session, job: note_asked(session, job, now=now)):
            questions.append(new_question(job.id, job.attempt, job.host, now=now))
            _log.info("host asked", job_id=job.id, host=job.host, attempt=job.attempt, state=job.state)
        if questions:
            send_questions(self._app, questions)

    def _ring(self, jobs: Sequence[models.Job], lease: LeaseView | None, now: datetime) -> None:
        """Ring again."""
        noted = self._note(jobs, lease, lambda session, job: note_rung(session, job, now=now))
        if not noted:
            return
        try:
            ring_doorbells(self._catalog, self._app, [JobView.of(job) for job in noted], now=now)
        except BrokerError as error:
            with self._catalog.write() as session:
                note_not_rung(session, error.job_ids, noted_at=now)
            raise
        _log.info("rang again", jobs=len(noted))

    def _note(
        self,
        jobs: Sequence[models.Job],
        lease: LeaseView | None,
        note: Callable[[Any, models.Job], bool],
    ) -> list[models.Job]:
        """Note what is about to be done; return the jobs for which nobody else did."""
        if not jobs:
            return []
        with self._catalog.write() as session:
            if lease is not None and not holds_lease(session, lease):
                return []
            return [job for job in jobs if note(session, job)]


def _look_at(job: models.Job, new_host: str | None) -> JobSight:
    """Return what matters of a row."""
    return JobSight(
        job_id=job.id,
        host=job.host,
        state=JobState(job.state),
        created_at=job.created_at,
        rung_at=job.rung_at,
        due_at=job.due_at,
        heard_at=job.heard_at,
        asked_at=job.asked_at,
        has_gaps=job.gaps > 0,
        is_cancelled=job.cancel_requested_at is not None,
        new_host=new_host,
    )
