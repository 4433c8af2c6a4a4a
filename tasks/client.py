"""Submit jobs from any program that has Celery, an operator's key, and a way to Redis; no catalog needed.

What became of a submission stands in the catalog under its run id: `fleetsave jobs list --run`, or
`tasks.catalog.queries.find_submission`. Sending the same submission twice is harmless.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from celery import Celery
from kombu import Queue

from tasks.broker import CONTROL_QUEUE
from tasks.document import new_nonce
from tasks.errors import RefusedJobError, UsageError
from tasks.keys import SigningKey, read_signing_key
from tasks.locate import DomainRef
from tasks.sending import BROKER_FAILURES, describe_failure
from tasks.submission import SUBMIT_TASK, Submission, parse_submission, read_submission

__all__ = ["DomainRef", "make_submission", "read_signing_key", "send_submission", "sign_submission"]

#: How long a submission may wait for the control plane.
SUBMISSION_LIFETIME: Final = timedelta(hours=1)


def make_submission(
    key: SigningKey,
    *,
    op: str,
    select: Sequence[str | DomainRef],
    params: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Submission:
    """Return what is to be asked for.

    Args:
        key: an operator's.
        op: save, checkpoint, restore, managed-save, managed-save-remove, start or dump.
        select: names, UUIDs, globs, @all, @host:NAME, @tag:NAME, !excluded; or domains on a host.
        params: what `tasks.params.OPERATION_PARAMS` allows for the operation.
        run_id: to find the jobs by; default: a new one.
        now: clock.

    Raises:
        UsageError: no control plane would take it.
    """
    moment = now()
    issued_at = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    submission = Submission(
        run_id=run_id or uuid.uuid4().hex,
        op=op,
        select=tuple(select),
        params=dict(params or {}),
        issued_at=issued_at,
        expires_at=issued_at + SUBMISSION_LIFETIME,
        nonce=new_nonce(),
        key_id=key.key_id,
    )
    try:
        parse_submission(read_submission(submission.to_bytes()), now=moment)
    except RefusedJobError as error:
        raise UsageError(error.where, error.found, error.wanted, error.hint) from error
    return submission


def sign_submission(submission: Submission, key: SigningKey) -> dict[str, str]:
    """Return what the task `fleetsave.submit` is to be called with."""
    document = submission.to_bytes()
    return {"submission": document.decode(), "signature": key.sign(document)}


def send_submission(app: Celery, submission: Submission, key: SigningKey) -> str:
    """Send a submission through any Celery application whose broker is the fleet's Redis; return its run id.

    Raises:
        BrokerError: Redis did not take it; it may be sent again.
    """
    queue = Queue(CONTROL_QUEUE, routing_key=CONTROL_QUEUE)
    try:
        app.send_task(
            SUBMIT_TASK,
            kwargs=sign_submission(submission, key),
            queue=cast("Any", queue),
            serializer="json",
            ignore_result=True,
        )
    except BROKER_FAILURES as error:
        raise describe_failure(error, "send it again") from error
    return submission.run_id
