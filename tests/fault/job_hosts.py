"""Be a host of the state machine of jobs: a real journal, and what leads to it and from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tasks.envelope import Envelope
from tasks.host_event import HostEvent
from tasks.journal import Journal
from tasks.states import JobState


class HostSide:
    """One host: its journal, the queue that leads to it, the stream that leads from it."""

    def __init__(self, name: str, folder: Path, now: Callable[[], datetime]) -> None:
        self.name = name
        self.now = now
        self.path = folder / f"{name}.sqlite"
        self.journal = Journal(self.path, host=name, now=now)
        #: Doorbells (envelopes) and questions (job id, attempt).
        self.queue: deque[Envelope | tuple[str, int]] = deque()
        self.stream: deque[HostEvent] = deque()
        self.is_up = True

    def restart(self) -> None:
        """Open the journal as a new worker does, and close what had begun: its engine died too."""
        self.journal.close()
        self.journal = Journal(self.path, host=self.name, now=self.now)
        self.is_up = True
        for entry in self.journal.list_unfinished():
            self.journal.record_state(entry.job_id, JobState.LOST, reason="nobody lived to say")


def has_messages(side: HostSide) -> bool:
    """Tell whether a host that is up has something to hear."""
    return side.is_up and bool(side.queue)


def has_work(side: HostSide) -> bool:
    """Tell whether a host that is up has a job to get on with."""
    return side.is_up and bool(side.journal.list_unfinished())


def has_news(side: HostSide) -> bool:
    """Tell whether a host that is up has something to send."""
    return side.is_up and bool(side.journal.list_unsent(1))
