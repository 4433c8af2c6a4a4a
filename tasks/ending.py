"""Say how a job ended, in words that a person can act on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from engine.errors import CancelledError, EngineError
from tasks.errors import DeadlineError
from tasks.process import read_last_line
from tasks.states import JobState
from tasks.stopping import Wish

_LOOK: Final = "the guest and the target have to be looked at"
_LOOK_FIRST: Final = (
    "the point of no return had begun: see whether the image is there before starting the domain"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a job ended."""

    state: JobState
    reason: str | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    #: The engine died, and it is certain that the guest is as it was.
    is_put_back: bool = False


def succeeded(result: dict[str, Any]) -> Ending:
    """Return the end of a job whose engine said what it did."""
    return Ending(state=JobState.SUCCEEDED, result=result)


def refused(error: dict[str, Any]) -> Ending:
    """Return the end of a job whose engine said why not."""
    is_cancelled = error.get("class") == CancelledError.__name__
    state = JobState.CANCELLED if is_cancelled else JobState.FAILED
    return Ending(state=state, reason=str(error.get("message", "")), error=error)


def failed(error: EngineError) -> Ending:
    """Return the end of a job that failed without a word of its engine."""
    return Ending(state=JobState.FAILED, reason=str(error), error=error.to_dict())


def stopped(wish: Wish, detail: str = "") -> Ending:
    """Return the end of a job that was stopped before anything was lost."""
    hint = f"the guest is as it was before{': ' if detail else ''}{detail}"
    kind = CancelledError if wish.state is JobState.CANCELLED else DeadlineError
    error = kind("job", wish.sentence, hint=hint)
    return Ending(state=wish.state, reason=str(error), error=error.to_dict())


def failed_to_start(error: OSError | EngineError) -> Ending:
    """Return the end of a job whose engine could not be started."""
    return failed(
        error if isinstance(error, EngineError) else EngineError("engine", f"cannot be started: {error}")
    )


def died(sentence: str, folder: Path, *, is_committing: bool) -> Ending:
    """Return the end of a job whose engine left no last line, and nothing that tells more."""
    hint = _LOOK_FIRST if is_committing else _LOOK
    return failed(EngineError("engine", with_last_words(sentence, folder), hint=hint))


def put_back(sentence: str, folder: Path, detail: str) -> Ending:
    """Return the end of a job whose engine died before anything was lost."""
    hint = f"{detail}: the guest is as it was, and what the engine had written is gone; submit the job again"
    ending = failed(EngineError("engine", with_last_words(sentence, folder), hint=hint))
    return replace(ending, is_put_back=True)


def lost(reason: str, hint: str = "") -> Ending:
    """Return the end of a job that nobody can say anything about."""
    error = EngineError("engine", reason, hint=hint)
    return Ending(state=JobState.LOST, reason=str(error), error=error.to_dict())


def with_last_words(sentence: str, folder: Path) -> str:
    """Add the last line of the engine's log, where it left one."""
    last = read_last_line(folder / "stderr.log")
    return f"{sentence}: {last}" if last else sentence
