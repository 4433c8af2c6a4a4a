"""Write down one thing that a host says, as JSON in its event stream."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tasks.states import JobState

EVENT_VERSION: Final = 1


class EventKind(enum.StrEnum):
    """What an event is about."""

    #: The job came to another state: {"state", "reason", and at the end "result" or "error"}.
    STATE = "state"
    #: The engine reached a named step: {"step"}.
    STEP = "step"
    #: So many bytes have passed: {"bytes", "total"}; only the newest counts.
    PROGRESS = "progress"
    #: The guest was paused or resumed: {"state"}.
    GUEST = "guest"
    #: The host was asked about an attempt of a job and does not know it; it will not claim it either: {}.
    UNKNOWN = "unknown"
    #: What the host is, has and can run: {"facts", "domains", "capabilities"}; the last two null: as before.
    INVENTORY = "inventory"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEvent:
    """One event; those about a job are numbered in the order the host saw them."""

    host: str
    kind: EventKind
    #: Aware, UTC.
    at: datetime
    body: dict[str, Any]
    #: These two are None for an inventory, and only there.
    job_id: str | None = None
    attempt: int | None = None
    #: From 1, unique in the job; None where nothing is journaled: for an inventory and an unknown job.
    seq: int | None = None
    #: Number of the job's event before this one, progress apart; 0: there is none; None: not known.
    after_seq: int | None = None

    def to_json(self) -> str:
        """Return the document that goes into the stream."""
        document = asdict(self) | {"v": EVENT_VERSION, "at": self.at.astimezone(UTC).isoformat()}
        return json.dumps(document, separators=(",", ":"))


def parse_event(text: str | bytes) -> HostEvent:
    """Return the event that the text holds.

    Raises:
        ValueError: no event of this version; the sentence says what is wrong.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or document.pop("v", None) != EVENT_VERSION:
        message = f"no event of version {EVENT_VERSION}"
        raise ValueError(message)
    try:
        at = datetime.fromisoformat(document.pop("at"))
        event = HostEvent(kind=EventKind(document.pop("kind")), at=at, **document)
    except (TypeError, KeyError, AttributeError) as error:
        message = f"missing or unknown key: {error}"
        raise ValueError(message) from error
    _check(event)
    return event


def _check(event: HostEvent) -> None:
    """Refuse an event that the catalog could not apply."""
    parts: tuple[object, object] = (event.host, event.body)
    if event.at.tzinfo is None or not isinstance(parts[0], str) or not isinstance(parts[1], dict):
        message = "at, host or body is of the wrong kind"
        raise ValueError(message)
    if event.kind is EventKind.INVENTORY:
        return
    numbers = (event.attempt, *(() if event.kind is EventKind.UNKNOWN else (event.seq,)))
    if not isinstance(event.job_id, str) or not all(type(number) is int and number > 0 for number in numbers):
        message = "job_id, attempt or seq is of the wrong kind"
        raise ValueError(message)
    if event.after_seq is not None and (type(event.after_seq) is not int or event.after_seq < 0):
        message = "after_seq is of the wrong kind"
        raise ValueError(message)
    if event.kind is EventKind.STATE:
        JobState(str(event.body.get("state")))
