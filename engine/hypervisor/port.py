"""Say what the engine wants of a hypervisor, in values of its own.

Every driver passes the same contract tests. Calls block until the hypervisor has
answered; errors are the engine's, never the driver's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain as the hypervisor describes it now."""

    name: str
    uuid: str
    #: Number of this run of the domain; another one after each start; -1 while it is shut off.
    run_id: int
    #: libvirt's word: "running", "paused", "shut off", ...
    state: str
    is_persistent: bool
    #: Paused because a person asked for it.
    is_paused_by_user: bool
    #: Most memory the guest can have, bytes.
    memory_bytes: int
    #: Memory the hypervisor process holds now, bytes; 0 where unknown or not asked for (list_domains).
    resident_memory_bytes: int
    has_managed_save: bool
    #: Another job runs on it ("" where none does).
    running_job: str

    @property
    def is_active(self) -> bool:
        """True while there is a guest that could be lost."""
        return self.run_id >= 0

    @property
    def is_running(self) -> bool:
        """True while the guest's CPUs run."""
        return self.state == "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What runs on this host."""

    libvirt: str
    hypervisor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What is to run a guest; None leaves the choice to the hypervisor."""

    architecture: str
    #: "kvm", "qemu", ...
    virt_type: str
    emulator: str | None = None
    machine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuMatch:
    """Whether a host can give guests a processor."""

    is_compatible: bool
    #: Features it lacks; empty where it lacks none, or the hypervisor does not say which.
    lacking: tuple[str, ...] = ()
    #: The hypervisor's own words; empty where it fits.
    reason: str = ""


class Hypervisor(Protocol):
    """One connection."""

    #: True where nothing real happens.
    is_simulated: bool
    #: "qemu", "test", ...: what the URI's driver calls itself.
    driver: str

    def versions(self) -> Versions:
        """Return the versions in use."""

    def capabilities(self) -> str:
        """Return the <capabilities> of the host (virConnectGetCapabilities)."""

    def domain_capabilities(self, platform: Platform) -> str:
        """Return the <domainCapabilities> of guests on a platform (virConnectGetDomainCapabilities).

        InvalidArgumentError, AbiError or StorageError where the host has no such platform.
        """

    def compare_cpu(self, platform: Platform, cpu_xml: str) -> CpuMatch:
        """Say whether guests on a platform can have a <cpu> (virConnectCompareHypervisorCPU)."""

    def expand_cpu(self, platform: Platform, cpu_xml: str) -> str:
        """Return a <cpu> with every feature spelled out (virConnectBaselineHypervisorCPU)."""

    def list_domains(self) -> list[Domain]:
        """Return every domain, running or not, sorted by name."""

    def find_domain(self, name_or_uuid: str) -> Domain:
        """Return one domain; NoDomainError where there is none."""

    def domain_xml(self, uuid: str, *, migratable: bool = False) -> str:
        """Return the live domain XML, secrets included where it is the migratable one."""

    def save(self, uuid: str, path: str, dxml: str | None, flags: int) -> None:
        """Stop the guest and write it to path (virDomainSaveFlags)."""

    def checkpoint(self, uuid: str, snapshot_xml: str) -> None:
        """Write a live guest's memory as the XML says; the guest goes on (virDomainSnapshotCreateXML)."""

    def set_max_downtime(self, uuid: str, seconds: float) -> None:
        """Bound the pause that the end of a live transfer may take (virDomainMigrateSetMaxDowntime)."""

    def restore(self, path: str, dxml: str | None, flags: int) -> None:
        """Start a guest from path (virDomainRestoreFlags)."""

    def save_as(
        self,
        uuid: str,
        path: str,
        dxml: str | None,
        flags: int,
        *,
        image_format: str | None,
        channels: int | None,
    ) -> None:
        """Save in a given format over so many channels (virDomainSaveParams)."""

    def core_dump(self, uuid: str, path: str, dump_format: int, flags: int) -> None:
        """Write the guest's memory to path (virDomainCoreDumpWithFormat)."""

    def managed_save_remove(self, uuid: str) -> None:
        """Throw the managed save image away (virDomainManagedSaveRemove)."""

    def managed_save(self, uuid: str, flags: int) -> None:
        """Stop the guest and write it where the hypervisor keeps such images (virDomainManagedSave)."""

    def start(self, uuid: str, flags: int) -> None:
        """Start a domain, from its managed save image where it has one (virDomainCreateWithFlags)."""

    def resume(self, uuid: str) -> None:
        """Let the guest's CPUs run (virDomainResume)."""

    def suspend(self, uuid: str) -> None:
        """Stop the guest's CPUs (virDomainSuspend)."""

    def abort_job(self, uuid: str) -> None:
        """Stop the job that runs on the domain (virDomainAbortJob)."""

    def pauses(self, uuid: str) -> list[tuple[float, str]]:
        """Return what the guest's CPUs did, oldest first.

        Pairs of time.monotonic() and "paused", "resumed", "started" or "stopped".
        """

    def close(self) -> None:
        """End the connection."""
