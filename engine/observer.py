"""Say what happens while an operation runs, to whoever wants to know."""

from __future__ import annotations

from typing import Protocol

from engine.steps import Step


class Observer(Protocol):
    """Told of steps, bytes and the guest's pauses; must return quickly and never raise."""

    def step(self, step: Step) -> None:
        """The operation has reached a named step."""

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """So many bytes of the image have passed; the total is an estimate, or unknown."""

    def guest(self, state: str) -> None:
        """The guest was "paused" or "resumed"."""


class SilentObserver:
    """Listens and says nothing."""

    def step(self, step: Step) -> None:
        """Ignore the step."""

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """Ignore the bytes."""

    def guest(self, state: str) -> None:
        """Ignore the guest."""
