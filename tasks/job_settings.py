"""Lay out the settings that are about jobs: how long each operation may take, how often it is tried."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from engine.units import parse_seconds
from tasks.limits import ATTEMPTS_MAX, BACKOFF, SECONDS_MAX
from tasks.params import OPERATION_PARAMS


def _read_seconds(value: object) -> object:
    """Turn "2h" into seconds; a number stays."""
    return parse_seconds(value) if isinstance(value, str) else value


def _check_operation(value: str) -> str:
    if value not in OPERATION_PARAMS:
        message = f"should be one of {', '.join(OPERATION_PARAMS)}"
        raise ValueError(message)
    return value


Seconds = Annotated[float, BeforeValidator(_read_seconds), Field(gt=0, le=SECONDS_MAX)]
Operation = Annotated[str, AfterValidator(_check_operation)]


class DeadlineSettings(BaseModel):
    """How long jobs of one operation may wait, take and stand still: seconds, or a text such as "2h"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: From submission (or the end of a back-off) to start.
    max_queue_wait: Seconds | None = None
    #: From start to end.
    max_duration: Seconds | None = None
    #: Without a byte or a step.
    max_stall: Seconds | None = None


class RetrySettings(BaseModel):
    """How often a job is tried whose attempts fail for a passing reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: In all, the first included.
    attempts: int = Field(ge=1, le=ATTEMPTS_MAX)
    #: Before the second attempt; doubled before each further one, up to an hour.
    backoff: Seconds = BACKOFF


class JobDefaults(DeadlineSettings):
    """What jobs of one operation are told where who submits does not say."""

    retry: RetrySettings | None = None
