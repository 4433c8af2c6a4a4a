"""Speak with libvirt; the only module that imports it.

Source: https://libvirt.org/html/libvirt-libvirt-domain.html; error numbers of
include/libvirt/virterror.h.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import libvirt

from engine.errors import (
    AbiError,
    CancelledError,
    DomainBusyError,
    DomainXmlError,
    EngineError,
    HypervisorError,
    HypervisorUnreachableError,
    InvalidArgumentError,
    NoDomainError,
    NotSupportedError,
    PathNotAllowedError,
    ReadOnlyError,
    StorageError,
    TargetExistsError,
    WrongStateError,
)
from engine.hypervisor.hostcalls import HostCalls
from engine.hypervisor.port import Domain, Versions

#: libvirt's error number -> the class a caller acts on.
_ERRORS: Final[dict[int, type[EngineError]]] = {
    libvirt.VIR_ERR_NO_SUPPORT: NotSupportedError,
    libvirt.VIR_ERR_INVALID_ARG: InvalidArgumentError,
    libvirt.VIR_ERR_XML_ERROR: DomainXmlError,
    libvirt.VIR_ERR_XML_DETAIL: DomainXmlError,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: DomainXmlError,
    libvirt.VIR_ERR_DOM_EXIST: TargetExistsError,
    libvirt.VIR_ERR_OPERATION_DENIED: ReadOnlyError,
    libvirt.VIR_ERR_SYSTEM_ERROR: StorageError,
    libvirt.VIR_ERR_NO_DOMAIN: NoDomainError,
    libvirt.VIR_ERR_OPERATION_INVALID: WrongStateError,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: AbiError,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: DomainBusyError,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: NotSupportedError,
    libvirt.VIR_ERR_OPERATION_ABORTED: CancelledError,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: NotSupportedError,
    libvirt.VIR_ERR_RESOURCE_BUSY: DomainBusyError,
    libvirt.VIR_ERR_ACCESS_DENIED: PathNotAllowedError,
}
#: What the client library says when libvirtd went away in the middle of a call.
_CONNECTION_CODES: Final = frozenset({libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR})
_STATES: Final = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
_PAUSE_EVENTS: Final = {
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "paused",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
}

_event_loop_lock: Final = threading.Lock()
_event_loop: list[threading.Thread] = []


def _start_event_loop() -> None:
    """Run libvirt's event loop in a thread of this process; once, before the first connection."""
    with _event_loop_lock:
        if _event_loop:
            return
        libvirt.virEventRegisterDefaultImpl()
        # The library would print every error to stderr by itself; ours carry them.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)

        def run() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        thread = threading.Thread(target=run, name="libvirt-events", daemon=True)
        thread.start()
        _event_loop.append(thread)


@contextmanager
def _translated(where: str, hint: str = "") -> Iterator[None]:
    """Turn libvirt's error into the class of ours that a caller acts on, its words kept."""
    try:
        yield
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        kind = _ERRORS.get(code, HypervisorError)
        if error.get_error_domain() == libvirt.VIR_FROM_RPC and code in _CONNECTION_CODES:
            kind = HypervisorUnreachableError
        raise kind(where, error.get_error_message() or str(error), "", hint, code) from error


class LibvirtHypervisor(HostCalls):
    """One libvirt connection and what its events told."""

    is_simulated = False

    def __init__(self, uri: str, *, read_only: bool = False) -> None:
        _start_event_loop()
        self.uri = uri
        self._opener: Callable[[str], Any] = libvirt.openReadOnly if read_only else libvirt.open
        self._pauses: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        self._connect()
        self.driver = str(self._conn.getType()).lower()

    def _connect(self) -> None:
        try:
            self._conn = self._opener(self.uri)
        except libvirt.libvirtError as error:
            raise HypervisorUnreachableError(
                self.uri,
                f"cannot connect: {error.get_error_message()}",
                "a libvirt that answers",
                f"is libvirtd running, and may this user talk to it? try: virsh -c {self.uri} list",
                error.get_error_code(),
            ) from error
        self._callback = self._watch_lifecycle()

    def _ask_host(self, question: Callable[[Any], Any]) -> Any:
        """Return the connection's answer to a question about the host."""
        self._reconnect()
        with _translated(self.uri):
            return question(self._conn)

    def _reconnect(self) -> None:
        """Connect anew if libvirtd went away: it is started again, and somebody has to look at the guest."""
        with _translated(self.uri):
            is_alive = self._conn.isAlive()
        if not is_alive:
            self._connect()

    def _watch_lifecycle(self) -> int | None:
        try:
            return int(
                self._conn.domainEventRegisterAny(
                    None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None
                )
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                raise
            return None

    def _on_lifecycle(self, _conn: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        if event in _PAUSE_EVENTS:
            self._pauses[domain.UUIDString()].append((time.monotonic(), _PAUSE_EVENTS[event]))

    def pauses(self, uuid: str) -> list[tuple[float, str]]:
        """Return what libvirt said of the guest's CPUs on this connection, oldest first."""
        return list(self._pauses[uuid])

    def versions(self) -> Versions:
        """Return the versions of libvirt and of the hypervisor behind it."""
        with _translated(self.uri):
            return Versions(
                libvirt=_version(self._conn.getLibVersion()), hypervisor=_version(self._conn.getVersion())
            )

    def list_domains(self) -> list[Domain]:
        """Return every domain, running or not, sorted by name."""
        self._reconnect()
        with _translated(self.uri):
            found = self._conn.listAllDomains()
        domains = []
        for domain in found:
            try:
                domains.append(self._describe(domain))
            except NoDomainError:
                continue  # undefined or shut off (transient) since the list was made
        return sorted(domains, key=lambda domain: domain.name)

    def find_domain(self, name_or_uuid: str) -> Domain:
        """Return the domain of that name or UUID."""
        return self._describe(self._lookup(name_or_uuid), with_memory=True)

    def _lookup(self, name_or_uuid: str) -> Any:
        self._reconnect()
        hint = f"virsh -c {self.uri} list --all shows the domains"
        for look_up in (self._conn.lookupByName, self._conn.lookupByUUIDString):
            try:
                return look_up(name_or_uuid)
            except libvirt.libvirtError as error:
                if error.get_error_code() not in {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG}:
                    with _translated(name_or_uuid):
                        raise
        raise NoDomainError(name_or_uuid, "no such domain", f"a domain of {self.uri}", hint)

    def _describe(self, domain: Any, *, with_memory: bool = False) -> Domain:
        """Return the domain's description.

        Its memory statistics take a job on the domain: whoever asks while a save runs waits
        for half a minute, so a list of all domains goes without.
        """
        with _translated(domain.name()):
            maximum = domain.maxMemory()
            state, reason = domain.state()
            # The object keeps the number it was looked up with, even if the guest has ended since.
            run_id = domain.ID() if state != libvirt.VIR_DOMAIN_SHUTOFF else -1
            job = self._job(domain) if run_id >= 0 else libvirt.VIR_DOMAIN_JOB_NONE
            if job is None:
                run_id, state, job = -1, libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_JOB_NONE
            return Domain(
                name=domain.name(),
                uuid=domain.UUIDString(),
                run_id=run_id,
                state=_STATES.get(state, f"state {state}"),
                is_persistent=bool(domain.isPersistent()),
                is_paused_by_user=state == libvirt.VIR_DOMAIN_PAUSED
                and reason == libvirt.VIR_DOMAIN_PAUSED_USER,
                memory_bytes=maximum * 1024,
                resident_memory_bytes=self._resident(domain) if with_memory and run_id >= 0 else 0,
                has_managed_save=self._has_managed_save(domain),
                running_job="" if job == libvirt.VIR_DOMAIN_JOB_NONE else f"job of type {job}",
            )

    def _job(self, domain: Any) -> int | None:
        """Return the type of the job that runs on an active domain; None if it has ended meanwhile."""
        if self.driver != "qemu":
            return int(libvirt.VIR_DOMAIN_JOB_NONE)
        try:
            return int(domain.jobInfo()[0])
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
                return None
            raise

    def _resident(self, domain: Any) -> int:
        try:
            return int(domain.memoryStats().get("rss", 0)) * 1024
        except libvirt.libvirtError:
            return 0  # a driver or state without statistics: the estimate falls back to the maximum

    def _has_managed_save(self, domain: Any) -> bool:
        try:
            return bool(domain.hasManagedSaveImage())
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return False
            raise

    def domain_xml(self, uuid: str, *, migratable: bool = False) -> str:
        """Return the live XML; the migratable form, secrets included, is what a save image holds."""
        flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE if migratable else 0
        with _translated(uuid):
            return str(self._lookup(uuid).XMLDesc(flags))

    def save(self, uuid: str, path: str, dxml: str | None, flags: int) -> None:
        """Stop the guest and write it to path."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.saveFlags(path, dxml, flags)

    def checkpoint(self, uuid: str, snapshot_xml: str) -> None:
        """Write a live guest's memory as the snapshot XML says; the guest goes on."""
        domain = self._lookup(uuid)
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_LIVE | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        with _translated(domain.name()):
            domain.snapshotCreateXML(snapshot_xml, flags)

    def set_max_downtime(self, uuid: str, seconds: float) -> None:
        """Bound the pause that the end of a live transfer may take; whole milliseconds, at least one."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.migrateSetMaxDowntime(max(1, round(seconds * 1000)))

    def restore(self, path: str, dxml: str | None, flags: int) -> None:
        """Start a guest from path."""
        self._reconnect()
        with _translated(self.uri):
            self._conn.restoreFlags(path, dxml, flags)

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
        """Save in a given format over so many channels; libvirt 11.2 or later."""
        domain = self._lookup(uuid)
        parameters: dict[str, str | int] = {libvirt.VIR_DOMAIN_SAVE_PARAM_FILE: path}
        for name, value in (
            ("VIR_DOMAIN_SAVE_PARAM_DXML", dxml),
            ("VIR_DOMAIN_SAVE_PARAM_IMAGE_FORMAT", image_format),
            ("VIR_DOMAIN_SAVE_PARAM_PARALLEL_CHANNELS", channels),
        ):
            if value is None:
                continue
            if not hasattr(libvirt, name):
                raise NotSupportedError(domain.name(), f"this libvirt lacks {name}", "libvirt 11.2 or later")
            parameters[getattr(libvirt, name)] = value
        with _translated(domain.name()):
            domain.saveParams(parameters, flags)

    def core_dump(self, uuid: str, path: str, dump_format: int, flags: int) -> None:
        """Write the guest's memory to path."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.coreDumpWithFormat(path, dump_format, flags)

    def managed_save_remove(self, uuid: str) -> None:
        """Throw the managed save image away."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.managedSaveRemove(0)

    def managed_save(self, uuid: str, flags: int) -> None:
        """Stop the guest and write it where libvirt keeps such images."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.managedSave(flags)

    def start(self, uuid: str, flags: int) -> None:
        """Start a domain, from its managed save image where it has one."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.createWithFlags(flags)

    def resume(self, uuid: str) -> None:
        """Let the guest's CPUs run."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.resume()

    def suspend(self, uuid: str) -> None:
        """Stop the guest's CPUs."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.suspend()

    def abort_job(self, uuid: str) -> None:
        """Stop the job that runs on the domain."""
        domain = self._lookup(uuid)
        with _translated(domain.name()):
            domain.abortJob()

    def close(self) -> None:
        """End the connection; one that libvirtd has ended already is no error of what was done through it."""
        with suppress(libvirt.libvirtError):
            if self._callback is not None:
                self._conn.domainEventDeregisterAny(self._callback)
            self._conn.close()


def _version(number: int) -> str:
    """Return libvirt's packed version as people write it."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
