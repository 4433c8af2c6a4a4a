"""Hold what one operation has at hand: the hypervisor, its places, its listeners, its clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from engine.cancel import CancelToken
from engine.errors import EngineError, GuestGoneError, HypervisorUnreachableError, NoDomainError
from engine.hypervisor.port import Domain, Hypervisor
from engine.observer import Observer
from engine.steps import Step

#: Seconds that libvirt gets to put a guest back after a failed operation.
PUT_BACK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_GONE_HINT: Final = "libvirt's log of the domain says why; start it, or restore an image of it"


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
            GuestGoneError: it is not there any more.
            EngineError: it is not as it was, and could not be put right.
        """
        deadline = time.monotonic() + PUT_BACK_SECONDS
        while (now := self._find_again(before, deadline)).state != before.state:
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return
        if before.is_running and now.state == "paused":
            self.hypervisor.resume(before.uuid)
            return
        raise EngineError(
            before.name,
            f"{now.state} after a failed operation",
            before.state,
            "look at it with virsh dominfo",
        )

    def _find_again(self, before: Domain, deadline: float) -> Domain:
        """Return the same run of the guest; wait for a libvirt that is being started anew.

        Raises:
            GuestGoneError: that run is over.
            HypervisorUnreachableError: nobody answers until the deadline (time.monotonic()).
        """
        while True:
            try:
                now = self.hypervisor.find_domain(before.uuid)
            except NoDomainError as error:
                raise GuestGoneError(before.name, "the guest ended by itself", "", _GONE_HINT) from error
            except HypervisorUnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
                continue
            if now.run_id != before.run_id:
                raise GuestGoneError(
                    before.name, f"the guest ended by itself, it is {now.state}", "", _GONE_HINT
                )
            return now

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
