"""Run one blocking hypervisor call beside the thread that serves its stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine.errors import EngineError, HypervisorError


class HypervisorCall:
    """A call in a thread of its own; its error is kept until somebody asks."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._error: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name="hypervisor-call", daemon=True)
        #: True once `start` was called: the hypervisor may be at work.
        self.has_begun = False
        #: time.monotonic() of the return; 0 before.
        self.returned_at = 0.0

    def start(self) -> None:
        """Begin; returns at once."""
        self.has_begun = True
        self._thread.start()

    @property
    def has_returned(self) -> bool:
        """True once the call came back, with success or without."""
        return self.returned_at > 0

    @property
    def error(self) -> EngineError | None:
        """What the call failed with; None while it runs and after success."""
        return self._error

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Return True once the call came back, False when it did not in time."""
        self._thread.join(timeout_seconds)
        return self.has_returned

    def _run(self) -> None:
        try:
            self._call()
        except EngineError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it to raise to
            self._error = HypervisorError("hypervisor call", f"{type(error).__name__}: {error}")
        self.returned_at = time.monotonic()
