"""Hold what the supervisor knows about one running job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from engine.steps import Step
from tasks.ending import Ending
from tasks.event_file import EventFile
from tasks.limits import may_repeat
from tasks.states import JobState

#: Before the first of these the engine has only looked.
_TOUCHING: Final = frozenset({Step.STAGING, Step.CALL})


@dataclass(slots=True, kw_only=True)
class Watch:
    """One job while it runs."""

    job_id: str
    op: str
    params: Mapping[str, Any]
    folder: Path
    state: JobState
    events: EventFile
    started_at: datetime
    ending: Ending | None = None
    #: What the engine has reported.
    steps: set[str] = field(default_factory=set)
    #: Bytes and total that were not reported yet.
    progress: dict[str, Any] | None = None
    progress_at: float = 0.0
    #: Bytes that had passed when it was last looked at.
    bytes_done: int = 0

    @property
    def target(self) -> Path | None:
        """Return the file that the job is to make; None = a restore point, or no image."""
        return target_of(self.params)

    @property
    def has_touched(self) -> bool:
        """Tell whether the engine may have changed anything."""
        return bool(self.steps & _TOUCHING)

    @property
    def may_repeat(self) -> bool:
        """Tell whether the job may be tried again after this attempt."""
        is_committing = self.state is JobState.COMMITTING
        return not is_committing and may_repeat(self.op, self.params, self.steps)

    def recall(self, read_offset: int) -> None:
        """Learn from the event file the steps that an earlier worker took over, up to the offset."""
        self.steps = {
            event["step"]
            for event, offset in EventFile(self.folder / "events.jsonl").read_new()
            if offset <= read_offset and isinstance(event.get("step"), str)
        }


def target_of(params: Mapping[str, Any]) -> Path | None:
    """Return the file that a job with these parameters is to make; None = a restore point, or no image."""
    return Path(params["to"]) if params.get("to") else None
