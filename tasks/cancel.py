"""Stop jobs, wherever they stand: a mark in the catalog, a flag in Redis that the job's host looks at.

Who decides. The host puts its claim of a job into its event stream first and looks at the flag then; here
the flag is set first, and the stream read to its end then. So at least one side sees the other. A queued job
whose claim was not seen is cancelled in the catalog at once: its doorbell, heard later, finds the flag. A job
that was claimed ends when its host says so, by what its host says.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import select

from engine.errors import CancelledError
from tasks.broker import cancel_key, stream_name
from tasks.catalog import Catalog, JobView, models, queries
from tasks.doorbell import DOORBELL_LIFETIME
from tasks.errors import BrokerError
from tasks.events import apply_events
from tasks.states import FINAL, UNFINISHED, JobState

#: How long a flag stays: longer than any doorbell is good, by clocks that disagree.
FLAG_LIFETIME: Final = 2 * DOORBELL_LIFETIME
#: Calls of apply_events that are enough for any stream: each reads at most so many batches.
_CATCH_UPS_MAX: Final = 100


class Answer(enum.StrEnum):
    """What became of the wish to stop a job."""

    #: It had ended before.
    WAS_FINAL = "was final"
    #: No host had claimed it, and none will.
    CANCELLED = "cancelled"
    #: Its host was asked; the job ends when the host says so.
    ASKED = "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """One job and what became of the wish to stop it."""

    job: JobView
    answer: Answer


def cancel_jobs(
    catalog: Catalog, redis: Redis, job_ids: Sequence[str], *, now: datetime
) -> list[Cancellation]:
    """Ask for jobs to stop; return what became of each at once, in the order given.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        job_ids: ids that the catalog knows; others are passed over.
        now: aware; when the wish was uttered.

    Raises:
        BrokerError: Redis does not answer: the wish stands in the catalog, no host knows of it yet, and
            `repeat_cancels` tells them; or the catalog cannot be reached.
    """
    were_final = {job.job_id for job in queries.find_jobs(catalog, job_ids) if job.is_final}
    marked = mark_cancels(catalog, job_ids, now=now)
    try:
        settle_cancels(catalog, redis, marked, now=now)
    except RedisError as error:
        why = str(error) or type(error).__name__
        raise BrokerError(
            "broker",
            f"{why}: {len(marked)} jobs are marked, their hosts do not know yet",
            "a Redis that answers",
            "start Redis, then cancel again",
        ) from error
    found = {job.job_id: job for job in queries.find_jobs(catalog, job_ids)}
    return [
        Cancellation(job=found[job_id], answer=_answer(found[job_id], was_final=job_id in were_final))
        for job_id in job_ids
        if job_id in found
    ]


def repeat_cancels(catalog: Catalog, redis: Redis, *, now: datetime | None = None) -> int:
    """Tell hosts again of every job that shall stop, and cancel those that nobody claimed.

    For flags that could not be set, or that a Redis has lost. Call it now and then.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        now: aware; default: this moment.

    Returns: how many flags were set.

    Raises:
        redis.RedisError: Redis does not answer.
        BrokerError: the catalog cannot be reached.
    """
    moment = now or datetime.now(UTC)
    job = models.Job
    # A doorbell of one that was cancelled before it was claimed may still be in a queue.
    may_be_heard = (job.state == str(JobState.CANCELLED)) & (job.finished_at > moment - DOORBELL_LIFETIME)
    query = select(job).where(
        job.cancel_requested_at.is_not(None)
        & (job.state.in_([str(state) for state in UNFINISHED]) | may_be_heard)
    )
    with catalog.read() as session:
        wanted = [JobView.of(row) for row in session.scalars(query)]
    settle_cancels(catalog, redis, wanted, now=moment)
    return len(wanted)


def mark_cancels(catalog: Catalog, job_ids: Collection[str], *, now: datetime) -> list[JobView]:
    """Write into the catalog that the jobs shall stop; return those that have not ended."""
    marked = []
    with catalog.write() as session:
        for job_id in sorted(job_ids):
            job = session.get(models.Job, job_id, with_for_update=True)
            if job is None or JobState(job.state) in FINAL:
                continue
            job.cancel_requested_at = job.cancel_requested_at or now
            marked.append(JobView.of(job))
    return marked


def settle_cancels(catalog: Catalog, redis: Redis, jobs: Sequence[JobView], *, now: datetime) -> None:
    """Set the flags, hear what the hosts have claimed, cancel what nobody has: in this order.

    Raises:
        redis.RedisError: Redis does not answer; the marks stay.
    """
    raise_flags(redis, jobs)
    hosts = sorted({job.host for job in jobs})
    hear_hosts(catalog, redis, hosts)
    close_unclaimed(catalog, [job.job_id for job in jobs], now=now)


def raise_flags(redis: Redis, jobs: Sequence[JobView]) -> None:
    """Set the flag of each job, for as long as a doorbell of it can be good."""
    if not jobs:
        return
    with redis.pipeline(transaction=False) as pipeline:
        for job in jobs:
            pipeline.set(cancel_key(job.host, job.job_id), "1", ex=FLAG_LIFETIME)
        pipeline.execute()


def hear_hosts(catalog: Catalog, redis: Redis, hosts: Sequence[str]) -> None:
    """Apply everything that the hosts had said when this was called."""
    for _ in range(_CATCH_UPS_MAX):
        apply_events(catalog, redis, hosts)
        if not _has_more(catalog, redis, hosts):
            return
    raise BrokerError("event streams", "they grow faster than they can be read", hint="try again")


def close_unclaimed(catalog: Catalog, job_ids: Collection[str], *, now: datetime) -> None:
    """Cancel the marked jobs that wait in the queue and whose present attempt no host has claimed."""
    with catalog.write() as session:
        for job_id in sorted(job_ids):
            job = session.get(models.Job, job_id, with_for_update=True)
            if job is None or job.cancel_requested_at is None or job.state != JobState.QUEUED:
                continue
            if session.get(models.Attempt, (job.id, job.attempt)) is not None:
                continue
            error = CancelledError("job", "cancelled before any host had begun it")
            job.state, job.finished_at, job.reason = str(JobState.CANCELLED), now, str(error)
            job.error = error.to_dict()


def _has_more(catalog: Catalog, redis: Redis, hosts: Sequence[str]) -> bool:
    """Tell whether a stream goes on after what was applied."""
    with catalog.read() as session:
        rows = [session.get(models.StreamPosition, host) for host in hosts]
    streams: dict[Any, Any] = {
        stream_name(host): row.position if row else "0-0" for host, row in zip(hosts, rows, strict=True)
    }
    return bool(streams and redis.xread(streams, count=1))


def _answer(job: JobView, *, was_final: bool) -> Answer:
    """Return what became of the wish, as far as it can be known at once."""
    if was_final:
        return Answer.WAS_FINAL
    return Answer.CANCELLED if job.state is JobState.CANCELLED else Answer.ASKED
