"""Say how long a job may take and how often it may be tried, as the job's parameters put it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from engine.steps import Step

ATTEMPTS_MAX: Final = 100
#: Seconds; 30 days.
SECONDS_MAX: Final = 30 * 86400.0
#: Seconds before the next attempt at most, however many there were.
BACKOFF_MAX: Final = 3600.0
#: Seconds before the second attempt where nobody says.
BACKOFF: Final = 60.0
#: The keys of a job's parameters that are about time.
DEADLINE_PARAMS: Final = ("max_queue_wait", "max_duration", "max_stall")

#: Operations after which nothing is as before, whether they succeed or fail half-way.
_ONCE: Final = frozenset({"restore", "start", "managed-save"})
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a job may wait, take, and stand still, in seconds; None = for ever."""

    #: From submission (or the end of its back-off) until its host starts it.
    max_queue_wait: float | None = None
    #: From start to end.
    max_duration: float | None = None
    #: Without a byte or a step.
    max_stall: float | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """Return those in a job's parameters, which have been checked."""
        return cls(**{key: params.get(key) for key in DEADLINE_PARAMS})

    def tightened(self, other: Deadlines) -> Deadlines:
        """Return the shorter of each two."""
        pairs = ((key, getattr(self, key), getattr(other, key)) for key in DEADLINE_PARAMS)
        return Deadlines(**{key: a if b is None else b if a is None else min(a, b) for key, a, b in pairs})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a job is tried whose attempts fail for a passing reason."""

    #: In all, the first included.
    attempts: int
    #: Seconds before the second attempt; doubled before each further one, up to an hour.
    backoff: float = BACKOFF

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """Return the one in a job's parameters, which have been checked; none there: one attempt."""
        return cls(**(params.get("retry") or {"attempts": 1}))

    def find_due(self, attempt: int, ended_at: datetime) -> datetime | None:
        """Return when the next attempt is due; None: there is none.

        Args:
            attempt: number of the one that failed, from 1.
            ended_at: when it did.
        """
        if attempt >= self.attempts:
            return None
        # The exponent is bounded, or a hundredth attempt would overflow.
        seconds = min(self.backoff * 2.0 ** min(attempt - 1, 32), BACKOFF_MAX)
        return ended_at + timedelta(seconds=seconds)


def may_repeat(op: str, params: Mapping[str, Any], steps: Collection[str]) -> bool:
    """Tell whether an attempt that came so far may be followed by another of itself.

    Args:
        op: the operation.
        params: the job's.
        steps: those that the engine reported; each is recorded before it is taken.
    """
    if Step.COMMIT in steps:
        return False
    return is_repeatable(op, params) or Step.CALL not in steps


def is_repeatable(op: str, params: Mapping[str, Any]) -> bool:
    """Tell whether the operation changes nothing that doing it again would not find as it was."""
    return op not in _ONCE and not (op == "dump" and (params.get("crash") or params.get("reset")))


def is_seconds(value: object) -> bool:
    """Tell whether the value can be a deadline."""
    return type(value) in {int, float} and 0 < value <= SECONDS_MAX  # type: ignore[operator]


def is_retry(value: object) -> bool:
    """Tell whether the value is {"attempts", "backoff"}, the second optional."""
    if not isinstance(value, dict) or "attempts" not in value or value.keys() - {"attempts", "backoff"}:
        return False
    attempts = value["attempts"]
    return (
        type(attempts) is int and 1 <= attempts <= ATTEMPTS_MAX and is_seconds(value.get("backoff", BACKOFF))
    )


def parse_time(value: object) -> datetime:
    """Return the one moment that a text can mean, written as envelopes write it.

    Raises:
        ValueError: it is no such text; the error says what is wanted.
    """
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("a UTC time such as 2026-01-31T23:59:59.000Z")
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError("a time that exists") from error


def is_time(value: object) -> bool:
    """Tell whether the value is a moment as envelopes write it."""
    try:
        parse_time(value)
    except ValueError:
        return False
    return True
