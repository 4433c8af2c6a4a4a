"""Hold what one operation has at hand: the hypervisor, its places, its listeners, its clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from engine.cancel import CancelToken
from engine.errors import EngineError
from engine.hypervisor.port import Domain, Hypervisor
from engine.observer import Observer
from engine.steps import Step

#: Seconds that libvirt gets to put a guest back after a failed operation.
PUT_BACK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The surroundings of one operation on one domain."""

    job_id: str
    host: str
    hypervisor: Hypervisor
    runtime_dir: Path
    observer: Observer
    cancel: CancelToken
    store: Path | None = None
    #: None = any path.
    allowed_roots: tuple[str, ...] | None = None
    managed_save_dir: Path | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: time.monotonic() at the start.
    began: float = field(default_factory=time.monotonic)

    def reach(self, step: Step) -> None:
        """Tell the observer of a step; before the point of no return, also stop here if asked to."""
        self.observer.step(step)
        if step not in {Step.COMMIT, Step.COMMITTED, Step.PUBLISHED, Step.DONE}:
            self.cancel.raise_if_cancelled(f"job {self.job_id}")

    def seconds(self) -> float:
        """Return the seconds since the operation began."""
        return time.monotonic() - self.began

    def put_back(self, before: Domain) -> None:
        """See that the guest is as it was before a failed operation; resume it if libvirt did not.

        Raises:
            EngineError: it is not, and could not be put right.
        """
        deadline = time.monotonic() + PUT_BACK_SECONDS
        while True:
            now = self.hypervisor.find_domain(before.uuid)
            if now.run_id == before.run_id and now.state == before.state:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        if before.is_running and now.state == "paused" and now.run_id == before.run_id:
            self.hypervisor.resume(before.uuid)
            return
        raise EngineError(
            before.name,
            f"{now.state} after a failed operation",
            before.state,
            "look at it with virsh dominfo",
        )

    def paused_seconds(self, uuid: str, since: float) -> float:
        """Return how long the guest's CPUs stood still after the instant `since` (time.monotonic())."""
        total, paused_at = 0.0, None
        for at, what in self.hypervisor.pauses(uuid):
            if at < since:
                continue
            if what == "paused" and paused_at is None:
                paused_at = at
            elif what in {"resumed", "stopped"} and paused_at is not None:
                total += at - paused_at
                paused_at = None
        if paused_at is not None:
            total += time.monotonic() - paused_at
        return total
