"""Say once how a signed document travels in a message, and what it means that the broker did not take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from tasks.errors import BrokerError
from tasks.keys import SigningKey

#: What Celery lets through when Redis cannot be reached, does not answer or refuses.
BROKER_FAILURES: Final = (KombuError, RedisError, OSError)


def signed_kwargs(name: str, document: bytes, key: SigningKey | None) -> dict[str, str | None]:
    """Return what a host's task is called with; without a key only an insecure worker takes it."""
    return {name: document.decode(), "signature": key.sign(document) if key else None}


def describe_failure(error: Exception, hint: str, job_ids: Sequence[str] = ()) -> BrokerError:
    """Return the error that tells of one of BROKER_FAILURES, and what is to be done about it."""
    return BrokerError(
        "broker", str(error) or type(error).__name__, "a Redis that answers", hint, job_ids=job_ids
    )
