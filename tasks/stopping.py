"""Decide when a running job has to be stopped, why, and when asking is not enough."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final

from tasks.limits import Deadlines
from tasks.states import JobState

#: Seconds for an engine that was told to stop: libvirt gets ten of them to put the guest back.
STOP_SECONDS: Final = 30.0


class Measure(enum.Enum):
    """What to do about an engine now."""

    NOTHING = enum.auto()
    #: Tell it to stop (SIGTERM).
    ASK = enum.auto()
    #: End it (SIGKILL); recovery puts its guest right.
    KILL = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Why a job is to be stopped, and how it ends by that."""

    #: CANCELLED, or FAILED for a deadline.
    state: JobState
    sentence: str


CANCEL: Final = Wish(state=JobState.CANCELLED, sentence="cancelled: somebody asked for it")


class Stopping:
    """Judges one running job again and again.

    Args:
        deadlines: the job's.
        now: seconds on a clock that never jumps.
        elapsed: seconds that the job has run before `now`.
    """

    def __init__(self, deadlines: Deadlines, *, now: float, elapsed: float = 0.0) -> None:
        self._deadlines = deadlines
        self._started = now - max(0.0, elapsed)
        self._moved = now
        self._asked = math.nan
        #: Why it is to be stopped; None: it is not.
        self.wish: Wish | None = None

    def note_move(self, now: float) -> None:
        """Write down that the job came further: a byte or a step."""
        self._moved = now

    def judge(self, *, now: float, is_cancelled: bool, is_committing: bool) -> Measure:
        """Say what to do about the engine now.

        Args:
            now: seconds on the same clock.
            is_cancelled: somebody wants the job stopped.
            is_committing: the point of no return has begun: nothing is done any more, it ends by itself,
                however long libvirt takes to stop QEMU.
        """
        if is_committing:
            return Measure.NOTHING
        if self.wish is None:
            self.wish = CANCEL if is_cancelled else self._find_overrun(now)
            self._asked = now
            return Measure.NOTHING if self.wish is None else Measure.ASK
        return Measure.KILL if now - self._asked > STOP_SECONDS else Measure.NOTHING

    def _find_overrun(self, now: float) -> Wish | None:
        """Return the deadline that is over, if one is."""
        for took, most, what in (
            (now - self._started, self._deadlines.max_duration, "ran for"),
            (now - self._moved, self._deadlines.max_stall, "came no further for"),
        ):
            if most is not None and took > most:
                return Wish(state=JobState.FAILED, sentence=describe_overrun(what, took, most))
        return None


def find_queue_overrun(waited: float, deadlines: Deadlines) -> str | None:
    """Return what is wrong with a job that has waited so many seconds in the queue; None: nothing."""
    most = deadlines.max_queue_wait
    return (
        None if most is None or waited <= most else describe_overrun("waited in the queue for", waited, most)
    )


def describe_overrun(what: str, took: float, most: float) -> str:
    """Say how long something took and how long it may."""
    return f"{what} {_format(took)}, want at most {_format(most)}"


def _format(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
