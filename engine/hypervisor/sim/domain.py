"""Keep the state of one simulated domain: pure values, times are arguments."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from engine.errors import ImageFormatError
from engine.hypervisor.port import Domain
from engine.hypervisor.sim.owner import Owner

#: What a guest's counter gains in a second during which its CPUs run.
TICKS_PER_SECOND: Final = 1000
RUNNING: Final = "running"
PAUSED: Final = "paused"
SHUT_OFF: Final = "shut off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work on a domain that one process does; it is undone when that process is gone."""

    token: str
    #: "save", "managed-save", "checkpoint", "dump", "restore", "start".
    kind: str
    owner: Owner
    #: The CPUs run again when the job is undone.
    resumes: bool
    #: The guest came with the job, and goes with it when it is undone.
    brings_guest: bool
    #: libvirt holds the domain's lock: whoever asks about the domain waits.
    holds_lock: bool = False
    is_aborted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimDomain:
    """One domain and its guest, as the state file has them."""

    name: str
    uuid: str
    #: XML of the next start; empty for a transient domain.
    definition: str
    memory_bytes: int
    #: XML of the guest there is; empty while shut off.
    live: str = ""
    run_id: int = -1
    state: str = SHUT_OFF
    is_paused_by_user: bool = False
    #: What the guest's CPUs have run until `running_since`, seconds.
    ran_seconds: float = 0.0
    #: Since when they run, time.monotonic(); None while they stand.
    running_since: float | None = None
    #: The boot of this machine that the guest runs in.
    boot_id: str = ""
    job: Job | None = None
    #: The guest ends with this process.
    autodestroy: Owner | None = None

    @property
    def is_active(self) -> bool:
        """True while there is a guest."""
        return self.run_id >= 0

    @property
    def is_persistent(self) -> bool:
        """True where the domain stays when its guest goes."""
        return bool(self.definition)

    @property
    def is_arriving(self) -> bool:
        """True while a guest is being restored, or is about to be started."""
        return self.job is not None and self.job.brings_guest

    @property
    def xml(self) -> str:
        """The XML that counts now."""
        return self.live or self.definition

    def counter(self, now: float) -> int:
        """Return what the guest has counted to."""
        running = 0.0 if self.running_since is None else now - self.running_since
        return int((self.ran_seconds + running) * TICKS_PER_SECOND)

    def paused(self, now: float, *, by_user: bool = False) -> SimDomain:
        """Return the domain with its CPUs stopped; nothing changes where they stand already."""
        if self.state != RUNNING:
            return self
        ran = self.ran_seconds + (0.0 if self.running_since is None else now - self.running_since)
        return replace(self, state=PAUSED, is_paused_by_user=by_user, ran_seconds=ran, running_since=None)

    def resumed(self, now: float) -> SimDomain:
        """Return the domain with its CPUs running; nothing changes where they run already."""
        if self.state != PAUSED:
            return self
        return replace(self, state=RUNNING, is_paused_by_user=False, running_since=now)

    def started(self, *, run_id: int, boot_id: str, live: str, counter: int = 0) -> SimDomain:
        """Return the domain with a guest whose CPUs have not run yet."""
        return replace(
            self,
            state=PAUSED,
            is_paused_by_user=False,
            run_id=run_id,
            boot_id=boot_id,
            live=live,
            ran_seconds=counter / TICKS_PER_SECOND,
            running_since=None,
        )

    def ended(self) -> SimDomain:
        """Return the domain without its guest."""
        return replace(
            self,
            state=SHUT_OFF,
            is_paused_by_user=False,
            run_id=-1,
            boot_id="",
            live="",
            ran_seconds=0.0,
            running_since=None,
            job=None,
            autodestroy=None,
        )

    def undone(self, now: float) -> SimDomain:
        """Return the domain as libvirt leaves it when the job that runs on it fails."""
        if self.job is None:
            return self
        if self.job.brings_guest:
            return self.ended()
        left = replace(self, job=None)
        return left.resumed(now) if self.job.resumes else left

    def described(self, *, has_managed_save: bool) -> Domain:
        """Return the domain as the engine wants it described."""
        return Domain(
            name=self.name,
            uuid=self.uuid,
            run_id=self.run_id,
            state=self.state,
            is_persistent=self.is_persistent,
            is_paused_by_user=self.is_paused_by_user,
            memory_bytes=self.memory_bytes,
            resident_memory_bytes=self.memory_bytes if self.is_active else 0,
            has_managed_save=has_managed_save,
            running_job=self.job.kind if self.job else "",
        )

    def to_json(self) -> str:
        """Return the text of the state file."""
        return json.dumps({**asdict(self), "simulated": True})


def parse_domain(text: str, *, path: str) -> SimDomain:
    """Return the domain that a state file holds.

    Raises:
        ImageFormatError: it is no state file.
    """
    try:
        document: dict[str, Any] = json.loads(text)
        del document["simulated"]
        job, autodestroy = document.pop("job"), document.pop("autodestroy")
        return SimDomain(
            **document,
            job=Job(**{**job, "owner": Owner(**job["owner"])}) if job else None,
            autodestroy=Owner(**autodestroy) if autodestroy else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ImageFormatError(path, f"no state of a simulated domain: {error}") from error
