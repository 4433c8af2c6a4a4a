"""Do one job on one domain, and put the guest back when it fails, as libvirt does.

Source: libvirt src/qemu/qemu_domainjob.c; src/qemu/qemu_driver.c, qemuDomainSaveInternal().
"""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from engine.directio.ratelimit import RateLimit
from engine.errors import EngineError, NoDomainError
from engine.hypervisor.sim.codes import (
    OPERATION_ABORTED,
    OPERATION_FAILED,
    OPERATION_INVALID,
    OPERATION_TIMEOUT,
    failure,
)
from engine.hypervisor.sim.connection import SimConnection
from engine.hypervisor.sim.domain import RUNNING, Job, SimDomain
from engine.hypervisor.sim.host import POLL_SECONDS
from engine.hypervisor.sim.owner import Owner

NOT_RUNNING: Final = "Requested operation is not valid: domain is not running"
ALREADY_RUNNING: Final = "Requested operation is not valid: domain is already running"
#: Longest wait between two looks whether the job is still wanted, seconds.
_STEP_SECONDS: Final = 0.05


class SimJob:
    """A job that a domain carries; use it in a `with` statement: an error undoes it."""

    def __init__(self, connection: SimConnection, domain: SimDomain) -> None:
        self._connection = connection
        self._host = connection.host
        job = _job_of(domain)
        self.kind = job.kind
        self._token = job.token
        #: The domain as it was when the job began.
        self.before = domain
        rate = connection.settings.rate
        self._limit = RateLimit(rate) if rate else None

    @classmethod
    def begin(cls, connection: SimConnection, domain: SimDomain, kind: str) -> SimJob:
        """Begin a job on a domain; wait for another one that runs on it.

        Raises:
            DomainBusyError: it did not end in time.
            WrongStateError: there is no guest (or, for a start, there is).
        """
        job = new_job(kind)
        deadline = time.monotonic() + connection.settings.busy_seconds
        while True:
            found = connection.host.change(domain.uuid, lambda now: _with_job(now, job))
            if found.job == job:
                return cls(connection, found)
            if time.monotonic() > deadline:
                message = "Timed out during operation: cannot acquire state change lock"
                raise failure(OPERATION_TIMEOUT, domain.name, message)
            connection.check()
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._undo()

    def change(
        self, how: Callable[[SimDomain], SimDomain], *, events: Sequence[str] | None = None
    ) -> SimDomain:
        """Change the domain, unless the job was taken away; see SimHost.change().

        Raises:
            HypervisorError: it was: the guest died, or the daemon did.
        """

        def change(domain: SimDomain) -> SimDomain:
            self._check(domain)
            return how(domain)

        return self._host.change(self.before.uuid, change, events=events)

    def check(self) -> None:
        """Raise when the job is not to go on.

        Raises:
            CancelledError: somebody aborted it.
            HypervisorError: the guest died, or the daemon did.
        """
        self._connection.check()
        self._check(self._host.read(self.before.uuid))

    def _check(self, domain: SimDomain | None) -> None:
        name = self.before.name
        if domain is None or domain.run_id != self.before.run_id:
            raise failure(OPERATION_FAILED, name, "operation failed: domain is no longer running")
        if domain.job is None or domain.job.token != self._token:
            # Only the daemon's death takes a job away; the connection may have been made anew since.
            raise self._connection.lost()
        if domain.job.is_aborted:
            found = f"operation aborted: job 'domain {self.kind}' canceled by client"
            raise failure(OPERATION_ABORTED, name, found)

    def reach(self, point: str) -> None:
        """Let the faults of this point strike."""
        self._connection.reach(
            self.kind, point, self.before.name, check=self.check, end_guest=self._end_guest
        )

    def set_lock(self, *, is_held: bool) -> None:
        """Hold the domain's lock, or let it go: while it is held nobody can look at the domain."""
        self.change(lambda now: replace(now, job=replace(_job_of(now), holds_lock=is_held)))

    def pause(self, *, resumes: bool | None = None) -> None:
        """Stop the CPUs.

        Args:
            resumes: whether they run again when the job is undone; None = if they ran before.
        """
        is_running = self.before.state == RUNNING
        again = is_running if resumes is None else resumes
        self.change(
            lambda now: replace(now, job=replace(_job_of(now), resumes=again)).paused(time.monotonic())
        )
        self.reach("paused")

    def spend(self, size: int) -> None:
        """Wait until so many bytes more may have passed; see that the job is still wanted."""
        self.check()
        if self._limit is not None:
            self._limit.wait(size, self._pause)

    def _pause(self, seconds: float) -> bool:
        time.sleep(min(seconds, _STEP_SECONDS))
        self.check()
        return False

    def end(self) -> None:
        """Let the guest go; the job is done."""
        self.change(lambda now: now.ended())

    def let_go_on(self) -> None:
        """Let the guest go on as it was; the job is done."""
        self.change(lambda now: now.undone(time.monotonic()))

    def _end_guest(self) -> None:
        self._host.change(self.before.uuid, lambda now: now.ended())

    def _undo(self) -> None:
        """Put the guest back, unless there is none any more, or a fault wants it left as it is."""
        is_left = False
        try:
            self._connection.reach(self.kind, "resume", self.before.name)
        except EngineError:
            # As libvirt does where it cannot resume: the first error is the one that is told.
            is_left = True

        def undo(now: SimDomain) -> SimDomain:
            if now.job is None or now.job.token != self._token:
                return now
            if is_left and not now.is_arriving:
                return replace(now, job=None)
            return now.undone(time.monotonic())

        with suppress(NoDomainError):  # a transient domain went with its guest
            self._host.change(self.before.uuid, undo)


def new_job(kind: str) -> Job:
    """Return a job of this process."""
    return Job(
        token=uuids.uuid4().hex,
        kind=kind,
        owner=Owner.me(),
        resumes=False,
        brings_guest=kind in {"restore", "start"},
    )


def _job_of(domain: SimDomain) -> Job:
    assert domain.job is not None
    return domain.job


def _with_job(domain: SimDomain, job: Job) -> SimDomain:
    """Return the domain with the job, unchanged while another one runs."""
    if domain.job is not None:
        return domain
    if job.brings_guest and domain.is_active:
        raise failure(OPERATION_INVALID, domain.name, ALREADY_RUNNING)
    if not job.brings_guest and not domain.is_active:
        raise failure(OPERATION_INVALID, domain.name, NOT_RUNNING)
    return replace(domain, job=job)
