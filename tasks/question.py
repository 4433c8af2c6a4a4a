"""Ask a host what it knows about a job, and unpack such a question there.

A question travels like a doorbell, as canonical JSON in the host's queue. A host that knows the attempt says
again all that it has journaled about it; one that does not says so, and never claims that attempt later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast

from celery import Celery
from kombu import Queue

from tasks.app import REPORT_TASK, signing_key_of
from tasks.broker import queue_name
from tasks.document import check_time, format_document, format_time, new_nonce, read_object, read_times
from tasks.envelope import is_host_name
from tasks.errors import RefusedJobError
from tasks.keyring import CheckSignature
from tasks.params import malformed
from tasks.sending import BROKER_FAILURES, describe_failure, signed_kwargs

QUESTION_VERSION: Final = 1
#: How long a question is good: a host that was away for longer is asked again.
QUESTION_LIFETIME: Final = timedelta(hours=1)
#: Bytes of canonical JSON.
_SIZE_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about one attempt of one job."""

    job_id: str
    attempt: int
    host: str
    issued_at: str
    expires_at: str
    nonce: str
    #: Which key signed it; None: nobody did, and only an insecure worker answers.
    key_id: str | None = None
    v: int = QUESTION_VERSION

    def to_bytes(self) -> bytes:
        """Return the canonical JSON: sorted keys, no spaces, UTF-8; the bytes that a signature covers."""
        return format_document(asdict(self))


def new_question(job_id: str, attempt: int, host: str, *, now: datetime) -> Question:
    """Return a question that is good from now on."""
    return Question(
        job_id=job_id,
        attempt=attempt,
        host=host,
        issued_at=format_time(now),
        expires_at=format_time(now + QUESTION_LIFETIME),
        nonce=new_nonce(),
    )


def open_question(
    document: bytes, signature: object, *, check: CheckSignature, host: str, now: datetime
) -> Question:
    """Return the question that a signed document holds, if it is for this host and in time.

    The answer may be that a job is disowned, so that nobody may ask who may not order.

    Args:
        document: canonical JSON as it came; the signature covers exactly these bytes.
        signature: as it came beside it.
        check: of a `Keyring`.
        host: this host's name.
        now: aware; what its time is measured by.

    Raises:
        RefusedJobError: `reason` is malformed, bad_signature, wrong_host or expired.
    """
    fields = read_object(document, what="question", size_max=_SIZE_MAX)
    check(document, fields.get("key_id"), signature)
    try:
        question = Question(**fields)
    except TypeError as error:
        raise malformed("question", f"no question: {error}", "exactly its keys") from error
    values: tuple[Any, Any] = (question.job_id, question.attempt)
    kinds = tuple(type(value) for value in values)
    is_right = kinds == (str, int) and question.job_id and question.attempt > 0
    if question.v != QUESTION_VERSION or not is_right or not is_host_name(question.host):
        raise malformed("question", "a field is of the wrong kind", f"version {QUESTION_VERSION}")
    issued_at, expires_at = read_times(fields)
    if question.host != host:
        raise RefusedJobError("host", repr(question.host), repr(host), reason="wrong_host")
    check_time(f"question about {question.job_id}", issued_at, expires_at, now=now)
    return question


def send_questions(app: Celery, questions: Sequence[Question]) -> None:
    """Put the questions into the hosts' queues.

    Raises:
        BrokerError: Redis did not take them all; asking again later is harmless.
    """
    try:
        key = signing_key_of(app)
        with app.producer_or_acquire() as producer:
            for question in questions:
                name = queue_name(question.host)
                document = replace(question, key_id=key.key_id if key else None).to_bytes()
                kwargs = signed_kwargs("question", document, key)
                queue = cast("Any", Queue(name, routing_key=name))
                app.send_task(REPORT_TASK, kwargs=kwargs, queue=queue, producer=producer)
    except BROKER_FAILURES as error:
        raise describe_failure(error, "hosts are asked again later") from error
