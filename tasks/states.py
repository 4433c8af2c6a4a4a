"""Say which states a job has and which may follow which, as data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class JobState(enum.StrEnum):
    """Where a job stands; the four last are final and never change."""

    #: A row in the catalog, waiting for its first attempt or the next; on a host: claimed, no engine yet.
    QUEUED = "queued"
    #: The engine works; the guest can still be put back as it was.
    RUNNING = "running"
    #: The point of no return has begun.
    COMMITTING = "committing"
    SUCCEEDED = "succeeded"
    #: The engine said why not; the guest is as it was unless the reason says otherwise.
    FAILED = "failed"
    #: Somebody asked for it to stop, and it did.
    CANCELLED = "cancelled"
    #: Nobody can say any more what became of it; a person has to look.
    LOST = "lost"


_ENDS_BADLY: Final = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.LOST})

TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING}) | _ENDS_BADLY,
    JobState.RUNNING: frozenset({JobState.COMMITTING}) | _ENDS_BADLY,
    JobState.COMMITTING: frozenset({JobState.SUCCEEDED}) | _ENDS_BADLY,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.LOST: frozenset(),
}
FINAL: Final = frozenset(state for state, following in TRANSITIONS.items() if not following)
UNFINISHED: Final = frozenset(JobState) - FINAL
#: Where an attempt may end as failed and the job go back to queued, its next attempt to come: not once the
#: point of no return has begun.
REPEATABLE: Final = frozenset({JobState.QUEUED, JobState.RUNNING})


def is_step(old: JobState, new: JobState) -> bool:
    """Tell whether a job may go from one state straight to the other."""
    return new in TRANSITIONS[old]


def is_later(old: JobState, new: JobState) -> bool:
    """Tell whether a job in the old state can ever come to the new one, by any number of steps.

    What a late or overtaken report is judged by: it moves a job forward or not at all.
    """
    return any(new == following or is_later(following, new) for following in TRANSITIONS[old])


def is_newer(old: tuple[int, JobState], new: tuple[int, JobState]) -> bool:
    """Tell whether a report about a job moves it forward: attempt first, then state.

    A final state is the job's, whatever the attempt; a later attempt overtakes all of an earlier one.

    Args:
        old: attempt and state of the job.
        new: attempt and state in the report.
    """
    if old[1] in FINAL or new[0] < old[0]:
        return False
    return new[0] > old[0] or is_later(old[1], new[1])
