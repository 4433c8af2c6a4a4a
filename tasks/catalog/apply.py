"""Apply what hosts say to the catalog, so that order, repetition and lateness change nothing in the end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import structlog
from sqlalchemy import delete
from sqlalchemy.orm import Session

from tasks.catalog import models
from tasks.catalog.attempts import apply_overtaken, apply_unknown, count_gaps, is_attempt_of
from tasks.catalog.points import bounded_object, remember_point, text_or_none
from tasks.catalog.upsert import insert_missing
from tasks.host_event import EventKind, HostEvent
from tasks.limits import RetryPolicy
from tasks.states import FINAL, REPEATABLE, JobState, is_later, is_newer

_log: Final = structlog.get_logger(__name__)
#: Columns of a host that its inventory fills, and of what type.
_FACTS: Final[dict[str, type]] = {
    "uri": str,
    "worker_version": str,
    "libvirt_version": str,
    "qemu_version": str,
    "store": str,
    "store_free_bytes": int,
    "store_used_bytes": int,
    "libvirt_up": bool,
    "draining": bool,
}
#: Bytes of JSON that are kept of what a host can run (it sends a quarter at most).
CAPABILITIES_SIZE_MAX: Final = 1024 * 1024
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


def apply_event(session: Session, host: str, event: HostEvent, *, now: datetime | None = None) -> bool:
    """Bring the catalog up to one event; the caller's transaction makes it durable.

    Args:
        session: of `Catalog.write`.
        host: whose stream the event was read from.
        event: the event.
        now: when it was heard, by the control side's clock; None: when the host says that it was.

    Returns:
        Whether anything changed: not for an event that was seen before or is overtaken, that speaks of a
        job nobody knows, or of another host's job (which a host may not do).
    """
    if event.host != host:
        _log.warning("event refused", host=host, reason="it speaks for another host", claimed=event.host)
        return False
    if event.kind is EventKind.INVENTORY:
        return _apply_inventory(session, event)
    job = session.get(models.Job, event.job_id, with_for_update=True)
    if job is None or not is_attempt_of(session, job, host, event):
        _log.warning("event refused", host=host, job_id=event.job_id, reason="no such job on this host")
        return False
    assert event.attempt is not None
    if event.attempt < job.attempt:
        is_new = apply_overtaken(session, job, host, event)
        if is_new and event.kind is EventKind.STATE:
            _apply_to_attempt(session, job, event, JobState(event.body["state"]))
        return is_new
    heard_at = now or event.at
    job.heard_at = max(job.heard_at or _LONG_AGO, heard_at)
    if event.kind is EventKind.UNKNOWN:
        return apply_unknown(session, job, event, now=heard_at)
    return _apply_job_event(session, job, event)


def _apply_job_event(session: Session, job: models.Job, event: HostEvent) -> bool:
    """Apply what a host says of a job's present attempt."""
    if event.kind is EventKind.PROGRESS:
        return _apply_progress(job, event)
    if not _remember(session, event):
        return False
    if event.kind is EventKind.STEP:
        _apply_step(job, event)
    elif event.kind is EventKind.STATE:
        _apply_state(session, job, event)
    if event.after_seq is not None:
        job.gaps = count_gaps(session, job.id)
    return True


def _remember(session: Session, event: HostEvent) -> bool:
    """Keep the event; tell whether it is new."""
    assert event.attempt is not None
    return insert_missing(
        session,
        models.JobEvent,
        job_id=event.job_id,
        seq=event.seq,
        after_seq=event.after_seq,
        attempt=event.attempt,
        at=event.at,
        kind=str(event.kind),
        body=event.body,
    )


def _apply_progress(job: models.Job, event: HostEvent) -> bool:
    """Take over the newest count of bytes."""
    assert event.seq is not None
    if event.seq <= job.progress_seq:
        return False
    job.progress_seq = event.seq
    if job.state == JobState.SUCCEEDED:
        # The result has said how many it were in the end.
        return False
    job.bytes_done, job.bytes_total = _integer(event.body.get("bytes")), _integer(event.body.get("total"))
    return True


def _apply_step(job: models.Job, event: HostEvent) -> None:
    """Take over the newest step."""
    assert event.seq is not None
    if event.seq > job.step_seq:
        job.step_seq = event.seq
        job.step = str(event.body.get("step", ""))[:32]


def _apply_state(session: Session, job: models.Job, event: HostEvent) -> None:
    """Move the job and its attempt forward; an overtaken state leaves only its time."""
    assert event.attempt is not None
    state = JobState(event.body["state"])
    reason = text_or_none(event.body.get("reason"))
    _apply_to_attempt(session, job, event, state)
    if job.state == JobState.LOST and state is JobState.SUCCEEDED:
        # The control side gave the job up too early: the end stays, but the image is there.
        remember_point(session, job, job.host, _object(event.body.get("result")) or {}, event.at)
    if not is_newer((job.attempt, JobState(job.state)), (event.attempt, state)):
        return
    if _begin_next_attempt(job, event, state):
        return
    job.state, job.attempt = str(state), event.attempt
    if state is JobState.RUNNING:
        job.reason = None
    if state in FINAL:
        job.finished_at, job.reason = event.at, reason
        job.result, job.error = _object(event.body.get("result")), _object(event.body.get("error"))
    if state is JobState.SUCCEEDED and job.result is not None:
        _apply_result(session, job, job.result, event.at)


def _apply_to_attempt(session: Session, job: models.Job, event: HostEvent, state: JobState) -> None:
    """Move the attempt forward, and note when it and its job began to run."""
    assert event.attempt is not None
    insert_missing(
        session,
        models.Attempt,
        job_id=job.id,
        number=event.attempt,
        host=event.host,
        state=str(JobState.QUEUED),
    )
    attempt = session.get(models.Attempt, (job.id, event.attempt))
    assert attempt is not None
    if state is JobState.RUNNING:
        attempt.started_at = event.at
        if event.attempt >= job.attempt:
            job.started_at = event.at
    if is_later(JobState(attempt.state), state):
        attempt.state = str(state)
        if state in FINAL:
            attempt.finished_at, attempt.reason = event.at, text_or_none(event.body.get("reason"))


def _begin_next_attempt(job: models.Job, event: HostEvent, state: JobState) -> bool:
    """Put a job back into the queue whose attempt failed for a passing reason; tell whether it was.

    The host says whether the operation may be repeated at all (tasks.limits.may_repeat).
    """
    assert event.attempt is not None
    assert event.seq is not None
    may_repeat = state is JobState.FAILED and event.body.get("repeatable") is True
    # A requested cancel leaves nothing to try for; past the point of no return nothing is tried again.
    if not may_repeat or job.cancel_requested_at is not None or JobState(job.state) not in REPEATABLE:
        return False
    policy = RetryPolicy.of(job.params)
    due_at = policy.find_due(event.attempt, event.at)
    if due_at is None:
        return False
    job.state, job.attempt, job.due_at = str(JobState.QUEUED), event.attempt + 1, due_at
    job.reason = (
        f"attempt {event.attempt} of {policy.attempts} failed: {text_or_none(event.body.get('reason'))};"
        f" the next is due at {due_at:%H:%M:%S} UTC"
    )
    # What the attempt had done is undone; its steps may still be on the way.
    if event.seq > job.step_seq:
        job.step, job.step_seq = None, event.seq
    if event.seq > job.progress_seq:
        job.bytes_done, job.bytes_total, job.progress_seq = None, None, event.seq
    return True


def _apply_result(session: Session, job: models.Job, result: dict[str, Any], at: datetime) -> None:
    """Learn from a success which domain it was and which restore point it made."""
    job.domain_name = text_or_none(result.get("domain")) or job.domain_name
    job.domain_uuid = text_or_none(result.get("domain_uuid")) or job.domain_uuid
    size = _integer(result.get("bytes"))
    if size:
        job.bytes_done = job.bytes_total = size
    remember_point(session, job, job.host, result, at)


def _apply_inventory(session: Session, event: HostEvent) -> bool:
    """Take over a host's facts and domains, unless a later inventory was applied before."""
    insert_missing(session, models.Host, name=event.host)
    host = session.get(models.Host, event.host, with_for_update=True)
    assert host is not None
    facts = _object(event.body.get("facts")) or {}
    is_newer = host.seen_at is None or event.at > host.seen_at
    if is_newer:
        host.seen_at = event.at
        for key, kind in _FACTS.items():
            value = facts.get(key)
            setattr(host, key, value if type(value) is kind else None)
        # Null or too much: what it said before stands.
        host.capabilities = (
            bounded_object(event.body.get("capabilities"), CAPABILITIES_SIZE_MAX) or host.capabilities
        )
    domains = event.body.get("domains")
    if domains is None or (host.domains_at is not None and event.at <= host.domains_at):
        return is_newer
    host.domains_at = event.at
    session.execute(delete(models.Domain).where(models.Domain.host == event.host))
    for domain in {str(entry["uuid"]): entry for entry in domains}.values():
        session.add(
            models.Domain(
                host=event.host,
                uuid=str(domain["uuid"]),
                name=str(domain["name"]),
                state=str(domain["state"]),
                memory_bytes=int(domain["memory_bytes"]),
                persistent=bool(domain["persistent"]),
                has_managed_save=bool(domain["has_managed_save"]),
                tags=[str(tag) for tag in domain["tags"]],
                seen_at=event.at,
            )
        )
    session.flush()
    return True


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None
