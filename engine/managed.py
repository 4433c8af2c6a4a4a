"""Let libvirt save and start with its own managed image, and look after what it leaves undone.

libvirt neither syncs the image nor tells whether it went past the page cache; here both
are seen to where the directory of such images is known.
Source: libvirt src/qemu/qemu_driver.c, qemuDomainManagedSave(), qemuDomainObjStart().
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.directio.residency import drop_clean_pages, resident_bytes
from engine.directio.target import storage_error
from engine.errors import (
    BypassError,
    EngineError,
    ImageFormatError,
    ImageIncompleteError,
    WrongStateError,
)
from engine.flags import BypassFailure, BypassPolicy, SaveFlags, StartFlags
from engine.hypervisor.port import Domain
from engine.image.header import HEADER_SIZE, parse_header
from engine.native import run_with_policy
from engine.operation import Operation
from engine.outcome import BypassReport, Outcome
from engine.preflight import check_flags, find_idle_domain
from engine.steps import Step
from engine.store.staging import sync_directory
from engine.store.workspace import lock_domain


def managed_save(
    operation: Operation,
    name: str,
    *,
    flags: SaveFlags = SaveFlags.NONE,
    policy: BypassPolicy = BypassPolicy.REQUIRE,
) -> Outcome:
    """Stop the guest and let libvirt keep its image; the next start takes it up.

    Raises:
        WrongStateError: the domain is transient, or not active.
        EngineError: libvirt refused or failed; it lets the guest go on then.
    """
    check_flags(flags)
    domain = find_idle_domain(operation.hypervisor, name)
    if not domain.is_persistent:
        raise WrongStateError(
            domain.name, "a transient domain", "a persistent one", "use fleetsave save instead"
        )
    operation.reach(Step.PREFLIGHT)
    native = _Native(operation=operation, domain=domain, policy=policy)
    plain = int(flags & ~SaveFlags.BYPASS_CACHE)
    try:
        native.run(
            lambda bypass: operation.hypervisor.managed_save(
                domain.uuid, plain | (SaveFlags.BYPASS_CACHE if bypass else 0)
            )
        )
    except EngineError:
        _keep_state(operation, domain)
        raise
    native.settle()
    was_running = domain.is_running
    if flags & (SaveFlags.RUNNING | SaveFlags.PAUSED):
        was_running = SaveFlags.RUNNING in flags
    return native.outcome("managed-save", was_running=was_running, state="saved")


def _keep_state(operation: Operation, before: Domain) -> None:
    """Give the guest of a failed managed save the state it had.

    libvirt forgets that state when it is called with RUNNING or PAUSED; here the flags
    cannot be kept from it, since the image's header is not ours to write.
    """
    now = operation.hypervisor.find_domain(before.uuid)
    if now.run_id != before.run_id or now.state == before.state:
        return
    if before.is_running and now.state == "paused":
        operation.hypervisor.resume(before.uuid)
    elif before.state == "paused" and now.is_running:
        operation.hypervisor.suspend(before.uuid)


def managed_save_remove(operation: Operation, name: str) -> Outcome:
    """Throw a domain's managed save image away: its next start boots it.

    Nothing is moved: the outcome has no path, and 0 bytes.

    Raises:
        WrongStateError: it has none.
        EngineError: libvirt refused.
    """
    domain = operation.hypervisor.find_domain(name)
    if not domain.has_managed_save:
        raise WrongStateError(
            domain.name, "domain has no managed save image", "one", "nothing needs to be done"
        )
    operation.reach(Step.PREFLIGHT)
    native = _Native(operation=operation, domain=domain, policy=BypassPolicy.OFF)
    native.run(lambda _bypass: operation.hypervisor.managed_save_remove(domain.uuid))
    return native.outcome("managed-save-remove", was_running=False, state=domain.state)


def start(
    operation: Operation,
    name: str,
    *,
    flags: StartFlags = StartFlags.NONE,
    policy: BypassPolicy = BypassPolicy.REQUIRE,
) -> Outcome:
    """Start a domain, from its managed save image where it has one.

    libvirt would throw a damaged managed image away and boot in silence; here it is
    looked at first and kept.

    Raises:
        WrongStateError: the domain is active already.
        ImageFormatError, ImageIncompleteError: the managed image is damaged; nothing was started.
        EngineError: libvirt refused or failed.
    """
    domain = operation.hypervisor.find_domain(name)
    if domain.is_active:
        raise WrongStateError(
            domain.name, f"domain is already active ({domain.state})", "one that is shut off"
        )
    native = _Native(operation=operation, domain=domain, policy=policy)
    is_resumed = domain.has_managed_save and StartFlags.FORCE_BOOT not in flags
    plain = int(flags & ~StartFlags.BYPASS_CACHE)
    try:
        was_running = native.look_at_image() if is_resumed else False
        operation.reach(Step.PREFLIGHT)
        native.run(
            lambda bypass: operation.hypervisor.start(
                domain.uuid, plain | (StartFlags.BYPASS_CACHE if bypass and is_resumed else 0)
            )
        )
    finally:
        native.close()
    state = operation.hypervisor.find_domain(domain.uuid).state
    return native.outcome("start", was_running=was_running, state=state)


@dataclass(slots=True, kw_only=True)
class _Native:
    """One operation whose bytes libvirt moves."""

    operation: Operation
    domain: Domain
    policy: BypassPolicy
    failures: list[BypassFailure] = field(default_factory=list)
    size: int = 0
    resident: int | None = None
    called_at: float = 0.0
    seconds: float = 0.0
    _fd: int = -1

    def image_path(self) -> Path | None:
        """Return libvirt's managed image of the domain, None where its directory is not known."""
        directory = self.operation.managed_save_dir
        return None if directory is None else directory / f"{self.domain.name}.save"

    def run(self, call: Callable[[bool], None]) -> None:
        """Call libvirt with or without the bypass flag, as the policy says."""
        operation = self.operation
        with lock_domain(operation.runtime_dir, self.domain.uuid, self.domain.name):
            operation.reach(Step.CALL)
            operation.reach(Step.COMMIT)
            self.called_at = time.monotonic()
            run_with_policy(self.policy, call, self.failures)
            self.seconds = time.monotonic() - self.called_at
            operation.reach(Step.COMMITTED)
        if self._fd >= 0:
            # libvirt reads the head through the cache even with the flag. The image is unlinked by now,
            # yet this descriptor still shows what stays when those pages are given up.
            if self.policy is not BypassPolicy.OFF:
                drop_clean_pages(self._fd)
            self.resident = resident_bytes(self._fd)

    def close(self) -> None:
        """Let go of the managed image."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def look_at_image(self) -> bool:
        """Refuse a damaged managed image; return whether its guest ran when it was saved."""
        path = self.image_path()
        if path is None:
            return False
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(str(path), error, "opening the managed save image") from error
        if self.policy is not BypassPolicy.OFF:
            drop_clean_pages(self._fd)
        self.size = os.fstat(self._fd).st_size
        try:
            header = parse_header(os.pread(self._fd, HEADER_SIZE, 0), path=str(path))
        except (ImageFormatError, ImageIncompleteError) as error:
            raise type(error)(
                error.where, error.found, error.wanted, "it is kept; --force-boot boots the guest without it"
            ) from error
        if self.policy is not BypassPolicy.OFF:
            drop_clean_pages(self._fd)
        return header.was_running

    def settle(self) -> None:
        """Sync the managed image, measure it, and drop the one page that libvirt's header flip leaves."""
        path = self.image_path()
        if path is None:
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(str(path), error, "opening the managed save image") from error
        try:
            os.fsync(fd)
            sync_directory(path.parent)
            self.size = os.fstat(fd).st_size
            if self.policy is not BypassPolicy.OFF:
                drop_clean_pages(fd)
            self.resident = resident_bytes(fd)
        finally:
            os.close(fd)
        if self.resident and self.policy is not BypassPolicy.OFF:
            self.failures.append(BypassFailure.RESIDENT_PAGES)
            if self.policy is BypassPolicy.REQUIRE:
                raise BypassError(
                    str(path), f"{self.resident} bytes of it are in the page cache", "0",
                    "the guest is saved; fleetsave start takes it up",
                    reason=BypassFailure.RESIDENT_PAGES.value,
                )  # fmt: skip

    def outcome(self, op: str, *, was_running: bool, state: str) -> Outcome:
        """Return the outcome; sizes are 0 where libvirt's directory is not known."""
        operation, path = self.operation, self.image_path()
        is_direct = (
            self.policy is not BypassPolicy.OFF and BypassFailure.FALLBACK_BUFFERED not in self.failures
        )
        operation.reach(Step.DONE)
        return Outcome(
            op=op,
            job_id=operation.job_id,
            domain=self.domain.name,
            domain_uuid=self.domain.uuid,
            host=operation.host,
            path=str(path) if path is not None and self.size else "",
            bytes=self.size,
            duration_seconds=operation.seconds(),
            guest_paused_seconds=self._paused_seconds(op),
            throughput_bytes_per_second=self.size / max(self.seconds, 1e-9),
            was_running=was_running,
            bypass_cache=BypassReport(
                policy=self.policy,
                direct=is_direct and not self.resident,
                direct_bytes=self.size if is_direct else 0,
                buffered_bytes=0 if is_direct else self.size,
                resident_bytes=self.resident,
                failures=tuple(self.failures),
            ),
            checksum=None,
            data_path="native",
            simulated=operation.hypervisor.is_simulated,
            state=state,
        )

    def _paused_seconds(self, op: str) -> float:
        """Return how long the guest stood still; for a start, how long it took to run (again)."""
        if op == "start":
            return self.seconds
        try:
            return self.operation.paused_seconds(self.domain.uuid, self.called_at)
        except EngineError:
            return self.seconds
