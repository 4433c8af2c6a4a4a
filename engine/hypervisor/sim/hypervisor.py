"""Be the hypervisor of a simulated host: the port's calls, and what a person would do beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import uuid4

from engine.errors import NoDomainError
from engine.hypervisor.hostcalls import cpu_match
from engine.hypervisor.port import CpuMatch, Domain, Platform, Versions
from engine.hypervisor.sim import capabilities, saving, starting
from engine.hypervisor.sim.codes import (
    INVALID_ARG,
    OPERATION_DENIED,
    OPERATION_INVALID,
    failure,
    system_failure,
)
from engine.hypervisor.sim.connection import SimConnection
from engine.hypervisor.sim.domain import SimDomain
from engine.hypervisor.sim.host import SimHost
from engine.hypervisor.sim.job import ALREADY_RUNNING, NOT_RUNNING, SimJob
from engine.hypervisor.sim.machine import read_machine
from engine.hypervisor.sim.owner import read_boot_id
from engine.hypervisor.sim.population import describe_host, populate
from engine.hypervisor.sim.settings import parse_uri

#: What it behaves like.
_VERSIONS: Final = Versions(libvirt="11.3.0", hypervisor="10.0.0")


class SimHypervisor:
    """One connection to a simulated host.

    Raises:
        InvalidArgumentError: the URI makes no sense.
        HypervisorUnreachableError: a fault keeps the daemon away.
    """

    is_simulated = True
    driver = "sim"

    def __init__(self, uri: str, *, read_only: bool = False) -> None:
        self.uri = uri
        settings = parse_uri(uri)
        self._host = SimHost(settings.directory)
        self._host.make(lambda: populate(settings), describe_host(settings))
        self._read_only = read_only
        self._connection = SimConnection(uri, settings, self._host, read_only=read_only)
        #: Guests that end with this connection: UUID and number of the run.
        self._mortal: list[tuple[str, int]] = []

    def versions(self) -> Versions:
        """Return the versions of what it behaves like."""
        self._connection.begin("look")
        return _VERSIONS

    def capabilities(self) -> str:
        """Return the <capabilities> that the URI gives the host."""
        self._connection.begin("look")
        return capabilities.format_capabilities(self._connection.settings)

    def domain_capabilities(self, platform: Platform) -> str:
        """Return the <domainCapabilities> of guests on a platform."""
        self._connection.begin("look", call="virConnectGetDomainCapabilities")
        return capabilities.format_domain_capabilities(self._connection.settings, platform, self.uri)

    def compare_cpu(self, platform: Platform, cpu_xml: str) -> CpuMatch:
        """Say whether guests on a platform can have a <cpu>."""
        self._connection.begin("look", call="virConnectCompareHypervisorCPU")
        lacking = capabilities.list_lacking(self._connection.settings, platform, cpu_xml, self.uri)
        if not lacking:
            return CpuMatch(is_compatible=True)
        return cpu_match(f"Host CPU does not provide required features: {', '.join(lacking)}")

    def expand_cpu(self, platform: Platform, cpu_xml: str) -> str:
        """Return a <cpu> with every feature spelled out."""
        self._connection.begin("look", call="virConnectBaselineHypervisorCPU")
        return capabilities.expand(self._connection.settings, platform, cpu_xml, self.uri)

    def list_domains(self) -> list[Domain]:
        """Return every domain, running or not, sorted by name."""
        self._connection.begin("look")
        limit = self._connection.settings.busy_seconds
        images = {path.name for path in self._host.save_directory.iterdir()}
        found = (self._host.wait_unlocked(domain, limit) for domain in self._host.domains())
        return [
            replace(
                domain.described(has_managed_save=f"{domain.name}.save" in images),
                # As with libvirt: what would have to ask each guest is left out of a list.
                resident_memory_bytes=0,
            )
            for domain in found
            if domain is not None
        ]

    def find_domain(self, name_or_uuid: str) -> Domain:
        """Return the domain of that name or UUID."""
        domain = self._look_up(name_or_uuid)
        return domain.described(has_managed_save=self._host.managed_image(domain.name).exists())

    def domain_xml(self, uuid: str, *, migratable: bool = False) -> str:
        """Return the XML that counts now; there are no secrets in it, yet libvirt's rule for them holds."""
        if migratable and self._read_only:
            found = "operation forbidden: virDomainGetXMLDesc with secure flag"
            raise failure(OPERATION_DENIED, uuid, found)
        return self._look_up(uuid).xml

    def save(self, uuid: str, path: str, dxml: str | None, flags: int) -> None:
        """Stop the guest and write it to path."""
        saving.save(self._connection, self._begin("save", uuid, "virDomainSaveFlags"), path, dxml, flags)

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
        """Save in the raw format; refuse all others."""
        domain = self._begin("save", uuid, "virDomainSaveParams")
        saving.check_format(domain, image_format, channels)
        saving.save(self._connection, domain, path, dxml, flags)

    def checkpoint(self, uuid: str, snapshot_xml: str) -> None:
        """Write a live guest's memory as the snapshot XML says; the guest goes on."""
        domain = self._begin("checkpoint", uuid, "virDomainSnapshotCreateXML")
        saving.checkpoint(self._connection, domain, snapshot_xml)

    def set_max_downtime(self, uuid: str, seconds: float) -> None:
        """See that there is a guest; its pauses are as short as they can be anyway."""
        domain = self._begin("look", uuid, "virDomainMigrateSetMaxDowntime")
        if not domain.is_active:
            raise failure(OPERATION_INVALID, domain.name, NOT_RUNNING)
        if seconds <= 0:
            raise failure(INVALID_ARG, domain.name, f"downtime of {seconds} s")

    def core_dump(self, uuid: str, path: str, dump_format: int, flags: int) -> None:
        """Write the guest's memory to path."""
        domain = self._begin("dump", uuid, "virDomainCoreDumpWithFormat")
        saving.core_dump(self._connection, domain, path, dump_format, flags)

    def managed_save(self, uuid: str, flags: int) -> None:
        """Stop the guest and write it where the host keeps such images."""
        saving.managed_save(
            self._connection, self._begin("managed-save", uuid, "virDomainManagedSave"), flags
        )

    def managed_save_remove(self, uuid: str) -> None:
        """Throw the managed save image away."""
        domain = self._begin("managed-save-remove", uuid, "virDomainManagedSaveRemove")
        path = self._host.managed_image(domain.name)
        try:
            path.unlink()
        except OSError as error:
            raise system_failure(
                domain.name, f"Failed to remove managed save file '{path}'", error
            ) from error

    def restore(self, path: str, dxml: str | None, flags: int) -> None:
        """Start a guest from path."""
        self._connection.begin("restore", call="virDomainRestoreFlags")
        starting.restore(self._connection, path, dxml, flags)

    def start(self, uuid: str, flags: int) -> None:
        """Start a domain, from its managed save image where it has one."""
        domain = self._begin("start", uuid, "virDomainCreateWithFlags")
        run_id = starting.start(self._connection, domain, flags)
        if self._host.find(domain.uuid).autodestroy is not None:
            self._mortal.append((domain.uuid, run_id))

    def resume(self, uuid: str) -> None:
        """Let the guest's CPUs run."""

        def resume(domain: SimDomain) -> SimDomain:
            resumed = domain.resumed(time.monotonic())
            if resumed is domain:
                raise failure(OPERATION_INVALID, domain.name, ALREADY_RUNNING)
            return resumed

        self._change_idle(self._begin("resume", uuid, "virDomainResume"), resume)

    def abort_job(self, uuid: str) -> None:
        """Stop the job that runs on the domain; it ends by itself soon after."""

        def abort(domain: SimDomain) -> SimDomain:
            _refuse_inactive(domain)
            if domain.job is None:
                found = "Requested operation is not valid: no job is active on the domain"
                raise failure(OPERATION_INVALID, domain.name, found)
            return replace(domain, job=replace(domain.job, is_aborted=True))

        self._host.change(self._begin("abort", uuid, "virDomainAbortJob").uuid, abort)

    def pauses(self, uuid: str) -> list[tuple[float, str]]:
        """Return what the guest's CPUs did since this connection was made, oldest first."""
        return [(at, what) for at, what in self._host.events(uuid) if at >= self._connection.opened_at]

    def close(self) -> None:
        """End the connection, and the guests that were to end with it."""
        self._connection.close()
        for uuid, run_id in self._mortal:
            domain = self._host.read(uuid)
            if domain is not None and domain.run_id == run_id:
                self._host.change(uuid, SimDomain.ended)

    def define(self, xml: str, *, transient: bool = False) -> Domain:
        """Add a persistent domain, or start a transient one (virDomainDefineXML, virDomainCreateXML).

        Raises:
            HypervisorError: name or UUID belong to another domain.
            WrongStateError: a transient one is there already.
        """
        new = read_machine(xml, self.uri)
        new = replace(new, uuid=new.uuid or str(uuid4()))
        if not transient:
            return self._host.put(new, lambda domain: replace(domain, definition=xml)).described(
                has_managed_save=False
            )

        def create(domain: SimDomain) -> SimDomain:
            if domain.is_active:
                raise failure(OPERATION_INVALID, domain.name, ALREADY_RUNNING)
            run_id = self._host.new_run_id()
            return domain.started(run_id=run_id, boot_id=read_boot_id(), live=xml).resumed(time.monotonic())

        return self._host.put(replace(new, definition=""), create).described(has_managed_save=False)

    def undefine(self, uuid: str) -> None:
        """Take the definition away: the domain goes, with its guest at the latest."""
        self._host.change(uuid, lambda domain: replace(domain, definition=""))

    def suspend(self, uuid: str) -> None:
        """Stop the guest's CPUs because a person wants it (virDomainSuspend)."""

        def suspend(domain: SimDomain) -> SimDomain:
            return domain.paused(time.monotonic(), by_user=True)

        self._change_idle(self._begin("look", uuid, "virDomainSuspend"), suspend)

    def destroy(self, uuid: str) -> None:
        """End the guest, whatever runs on it (virDomainDestroy)."""

        def destroy(domain: SimDomain) -> SimDomain:
            _refuse_inactive(domain)
            return domain.ended()

        self._host.change(self._begin("look", uuid, "virDomainDestroy").uuid, destroy)

    def crash(self, away_seconds: float = 0.0) -> None:
        """Let the daemon die and be back after so long: jobs are undone, guests go on."""
        self._connection.crash(away_seconds)

    def counter(self, uuid: str) -> int:
        """Return what the guest has counted to: the milliseconds that its CPUs have run."""
        return self._host.find(uuid).counter(time.monotonic())

    def _begin(self, op: str, uuid: str, call: str) -> SimDomain:
        """Begin a call on a domain and return the domain; its lock is waited for."""
        self._connection.begin("look")
        name = self._host.find(uuid).name
        self._connection.begin(op, where=name, call=call)
        return self._wait_unlocked(uuid)

    def _look_up(self, name_or_uuid: str) -> SimDomain:
        self._connection.begin("look")
        return self._wait_unlocked(name_or_uuid)

    def _wait_unlocked(self, name_or_uuid: str) -> SimDomain:
        domain = self._host.wait_unlocked(
            self._host.find(name_or_uuid), self._connection.settings.busy_seconds
        )
        if domain is None:
            raise NoDomainError(name_or_uuid, "no such domain any more", f"a domain of {self.uri}")
        return domain

    def _change_idle(self, domain: SimDomain, how: Callable[[SimDomain], SimDomain]) -> None:
        """Change the guest once no job runs on its domain."""
        with SimJob.begin(self._connection, domain, "change") as job:
            job.change(lambda now: replace(how(now), job=None))


def _refuse_inactive(domain: SimDomain) -> None:
    if not domain.is_active:
        raise failure(OPERATION_INVALID, domain.name, NOT_RUNNING)
