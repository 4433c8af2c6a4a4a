"""Carry the wish to stop from a signal to the loops that can."""

from __future__ import annotations

import threading

from engine.errors import CancelledError


class CancelToken:
    """Set once, from any thread or signal handler; looked at between two blocks."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason = ""

    def cancel(self, reason: str) -> None:
        """Ask every loop that holds this token to stop at its next look."""
        self._reason = reason
        self._event.set()

    @property
    def is_cancelled(self) -> bool:
        """True once somebody asked."""
        return self._event.is_set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Return True once somebody asked, False when nobody did in time."""
        return self._event.wait(timeout_seconds)

    def raise_if_cancelled(self, where: str) -> None:
        """Raise CancelledError once somebody asked."""
        if self._event.is_set():
            raise CancelledError(where, f"cancelled: {self._reason}", hint="the guest is as it was before")
