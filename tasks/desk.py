"""Take submissions in: check each, make its jobs, write down what became of it, ring for the jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from celery import Celery
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from engine.errors import DomainBusyError, EngineError
from tasks.catalog import Catalog, DomainView, JobView, models
from tasks.config import Settings, default_params
from tasks.control import Choice, Target, check_permission, choose_domains
from tasks.doorbell import ring_doorbells
from tasks.errors import BrokerError, RefusedJobError
from tasks.keyring import Keyring
from tasks.keys import is_key_id
from tasks.submission import Submission, is_run_id, parse_submission, read_submission
from tasks.submit import make_jobs

#: Values of fleetsave_submissions_total{result}.
SUBMISSION_RESULTS: Final = (
    "accepted", "duplicate", "refused", "forbidden", "expired", "bad_signature", "malformed"
)  # fmt: skip
#: Unsigned requests that are remembered; strangers must not fill the catalog.
_STRANGERS_MAX: Final = 1000
#: Characters of a reason.
_REASON_MAX: Final = 1000

_log: Final = structlog.get_logger(__name__)


class SubmissionDesk:
    """Answers `fleetsave.submit` on the control host.

    Args:
        settings: operators and their roles.
        catalog: of `tasks.catalog.open_catalog`.
        app: of `tasks.app.make_app`, to ring with.
        registry: for fleetsave_submissions_total.
        now: clock.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        catalog: Catalog,
        app: Celery,
        registry: CollectorRegistry,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._operators = settings.operators
        self._roles = settings.roles
        self._settings = settings
        self._keyring = Keyring({key_id: one.key for key_id, one in settings.operators.items()})
        self._catalog = catalog
        self._app = app
        self._now = now
        self._results = Counter(
            "fleetsave_submissions_total",
            "Requests of operators over Celery.",
            ("result",),
            registry=registry,
        )
        for result in SUBMISSION_RESULTS:
            self._results.labels(result=result)

    def answer(self, submission: object, signature: object) -> None:
        """Do what a submission asks for, once, if its key may; write down and count what became of it.

        Raises:
            BrokerError: the catalog cannot be reached; nothing was done, and the caller may send it again.
        """
        now = self._now()
        document = (submission if isinstance(submission, str) else "").encode(errors="replace")
        fields: Mapping[str, Any] = {}
        try:
            fields = read_submission(document)
            self._keyring.check(document, fields.get("key_id"), signature)
        except RefusedJobError as error:
            self._refuse_stranger(fields, error, now)
            return
        jobs = self._take(fields, now)
        with suppress(BrokerError):
            # The rows are there and say "queued": whoever looks after them rings again.
            ring_doorbells(self._catalog, self._app, jobs, now=now)

    def refuse_garbage(self, error: RefusedJobError) -> None:
        """Count a message that is no submission at all."""
        self._results.labels(result=error.reason).inc()
        _log.warning("submission refused", reason=error.reason, error=str(error))

    def _take(self, fields: Mapping[str, Any], now: datetime) -> list[JobView]:
        """Make the jobs of a request whose signature is right, with its row, in one transaction."""
        row = _make_row(fields, now, is_authentic=True)
        try:
            with self._catalog.write() as session:
                session.add(row)
                # The index lets one request in under an id, in whatever process.
                session.flush()
                jobs, result = self._decide(session, row, fields, now)
        except IntegrityError:
            self._count("duplicate", row)
            return []
        self._count(result, row)
        return jobs

    def _decide(
        self, session: Session, row: models.Submission, fields: Mapping[str, Any], now: datetime
    ) -> tuple[list[JobView], str]:
        """Return the jobs that were made, and how to count the request; fill in its row."""
        try:
            with session.begin_nested():
                jobs, reason = self._make_jobs(session, fields, now)
        except EngineError as error:
            row.state, row.reason = "refused", str(error)[:_REASON_MAX]
            return [], error.reason if isinstance(error, RefusedJobError) else "refused"
        row.state, row.reason, row.job_count = "accepted", reason, len(jobs)
        return jobs, "accepted"

    def _make_jobs(
        self, session: Session, fields: Mapping[str, Any], now: datetime
    ) -> tuple[list[JobView], str | None]:
        """Make all jobs that a request asks for; what fits a pattern but is busy is left out and named."""
        submission = parse_submission(fields, now=now)
        operator = self._operators[submission.key_id]
        if not operator.is_valid(now):
            raise RefusedJobError(
                f"key {submission.key_id}", f"it counted until {operator.until}", "a key that counts",
                reason="forbidden",
            )  # fmt: skip
        params = default_params(self._settings, submission.op) | submission.params
        domains = [DomainView.of(row) for row in session.scalars(select(models.Domain))]
        jobs: list[JobView] = []
        busy: list[str] = []
        for choice in choose_domains(submission, domains):
            try:
                jobs += _make_job(session, submission, params, choice, now)
            except DomainBusyError:
                if choice.is_named:
                    raise
                busy.append(f"{choice.ref.domain} on {choice.ref.host}")
        tags = {(domain.host, domain.uuid): domain.tags for domain in domains}
        check_permission(submission, operator, self._roles, [_target(job, tags) for job in jobs])
        if not jobs:
            raise DomainBusyError("select", f"every domain that fits is busy: {', '.join(busy)}")
        return jobs, f"busy, left out: {', '.join(busy)}"[:_REASON_MAX] if busy else None

    def _refuse_stranger(self, fields: Mapping[str, Any], error: RefusedJobError, now: datetime) -> None:
        """Write down a request that nobody can be held to; only the newest are kept."""
        row = _make_row(fields, now, is_authentic=False)
        row.state, row.reason = "refused", str(error)[:_REASON_MAX]
        with self._catalog.write() as session:
            session.add(row)
            session.flush()
            old = models.Submission.id <= row.id - _STRANGERS_MAX
            session.execute(delete(models.Submission).where(old, ~models.Submission.is_authentic))
        self._count(error.reason, row)

    def _count(self, result: str, row: models.Submission) -> None:
        self._results.labels(result=result).inc()
        _log.info(
            "submission", result=result, run_id=row.run_id, key_id=row.key_id, op=row.op,
            jobs=row.job_count or 0, reason=row.reason,
        )  # fmt: skip


def _make_row(fields: Mapping[str, Any], now: datetime, *, is_authentic: bool) -> models.Submission:
    """Return the row of a request, with what can be made out of it."""
    run_id, key_id, op = fields.get("run_id"), fields.get("key_id"), fields.get("op")
    return models.Submission(
        run_id=run_id if is_run_id(run_id) else None,
        key_id=key_id if is_key_id(key_id) else None,
        is_authentic=is_authentic,
        op=op[:32] if isinstance(op, str) and op.isascii() and op.isprintable() else None,
        received_at=now,
        state="refused",
    )


def _make_job(
    session: Session, submission: Submission, params: Mapping[str, Any], choice: Choice, now: datetime
) -> list[JobView]:
    """Make the job of one domain, or nothing of it."""
    with session.begin_nested():
        return make_jobs(
            session,
            op=submission.op,
            domains=[choice.ref],
            params=params,
            run_id=submission.run_id,
            now=now,
        )


def _target(job: JobView, tags: Mapping[tuple[str, str], tuple[str, ...]]) -> Target:
    """Return what the job would work on."""
    uuid = job.domain_uuid or ""
    name = job.domain_name or ""
    return Target(host=job.host, name=name, uuid=uuid, tags=tags.get((job.host, uuid), ()))
