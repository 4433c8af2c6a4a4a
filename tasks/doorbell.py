"""Ring at hosts: put the word that a job waits into their queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

from celery import Celery
from kombu import Queue

from tasks.app import RUN_TASK, signing_key_of
from tasks.broker import find_queue_name
from tasks.catalog import Catalog, JobView, models
from tasks.envelope import Envelope, format_time, new_nonce
from tasks.sending import BROKER_FAILURES, describe_failure, signed_kwargs
from tasks.states import JobState

#: How long a doorbell is good; a row that still waits after that is rung for again, with a new envelope.
DOORBELL_LIFETIME: Final = timedelta(hours=24)


def ring_doorbells(catalog: Catalog, app: Celery, jobs: Sequence[JobView], *, now: datetime) -> None:
    """Send one doorbell for each job that is queued, signed with the application's key; twice is harmless.

    Args:
        catalog: where it is noted that they were rung.
        app: of `tasks.app.make_app`.
        jobs: any; those that are no longer queued, or whose next attempt is not due, are passed over.
        now: aware; from here the doorbell's lifetime counts.

    Raises:
        BrokerError: Redis did not take them all; `job_ids` are those still to be rung for.
    """
    waiting = [
        job for job in jobs if job.state is JobState.QUEUED and (job.due_at is None or job.due_at <= now)
    ]
    key = signing_key_of(app)
    rung: list[str] = []
    try:
        with app.producer_or_acquire() as producer:
            for job in waiting:
                name = find_queue_name(job.host, job.op)
                queue = Queue(name, routing_key=name)
                envelope = _envelope(job, key.key_id if key else None, now)
                kwargs = signed_kwargs("envelope", envelope.to_bytes(), key)
                app.send_task(
                    RUN_TASK, kwargs=kwargs, task_id=job.job_id, queue=cast("Any", queue), producer=producer
                )
                rung.append(job.job_id)
    except BROKER_FAILURES as error:
        left = [job.job_id for job in waiting[len(rung) :]]
        raise describe_failure(
            error, "start Redis, then ring again: the rows are in the catalog", left
        ) from error
    finally:
        _note_rung(catalog, rung, now)


def _envelope(job: JobView, key_id: str | None, now: datetime) -> Envelope:
    """Return a new envelope for a job."""
    issued_at = now.replace(microsecond=now.microsecond // 1000 * 1000)
    return Envelope(
        job_id=job.job_id,
        attempt=job.attempt,
        op=job.op,
        host=job.host,
        domain=job.domain,
        # However often it is rung for: from here the host counts how long the job has waited.
        params=job.params | {"queued_at": format_time(job.due_at or job.created_at)},
        issued_at=issued_at,
        expires_at=issued_at + DOORBELL_LIFETIME,
        nonce=new_nonce(),
        key_id=key_id,
    )


def _note_rung(catalog: Catalog, job_ids: Sequence[str], now: datetime) -> None:
    """Write down for whom the bell was rung."""
    if not job_ids:
        return
    with catalog.write() as session:
        for job_id in job_ids:
            job = session.get(models.Job, job_id)
            if job is not None:
                job.rung_at = now
