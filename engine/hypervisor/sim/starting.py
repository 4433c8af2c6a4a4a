"""Start guests, from images and without, in the order in which libvirt does it.

Source: libvirt src/qemu/qemu_driver.c, qemuDomainRestoreInternal(), qemuDomainObjStart().
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from engine.domxml.document import check_same_domain
from engine.errors import HypervisorError, StorageError
from engine.flags import SaveFlags, StartFlags
from engine.hypervisor.sim.capabilities import check_machine
from engine.hypervisor.sim.codes import OPERATION_INVALID, check_flags, failure
from engine.hypervisor.sim.connection import SimConnection
from engine.hypervisor.sim.domain import SimDomain
from engine.hypervisor.sim.files import Source
from engine.hypervisor.sim.job import SimJob, new_job
from engine.hypervisor.sim.machine import check_abi, read_machine
from engine.hypervisor.sim.owner import Owner, read_boot_id
from engine.hypervisor.sim.reading import SimImageHead, load_image, open_source, read_head

#: What libvirt tells of a guest that runs, or does not: a boot's RESUMED comes before its STARTED.
_BOOTED: Final = {True: ("resumed", "started"), False: ("started", "paused")}
_RESTORED: Final = {True: ("started", "resumed"), False: ("started", "paused")}
_RESTORE_FLAGS: Final = SaveFlags.BYPASS_CACHE | SaveFlags.RUNNING | SaveFlags.PAUSED | SaveFlags.RESET_NVRAM


def restore(connection: SimConnection, path: str, dxml: str | None, flags: int) -> None:
    """Start a guest from the image at path; a domain that is not there yet is transient."""
    given = SaveFlags(flags)
    check_flags(given, _RESTORE_FLAGS, connection.uri)
    head = _look(connection, path)
    name = read_machine(head.xml, connection.uri).name
    if dxml is not None:
        check_abi(head.xml, dxml, name)
    check_machine(connection.settings, dxml or head.xml, name)
    connection.reach("restore", "closed", name, check=connection.check)
    direct = SaveFlags.BYPASS_CACHE in given
    source = open_source(path, connection.uri, connection.check, direct=direct)
    try:
        read_head(source, connection.uri)
        with SimJob(connection, _arrive(connection, dxml or head.xml)) as job:
            job.reach("reopened")
            counter = load_image(job, source)
            runs = head.header.was_running
            if given & (SaveFlags.RUNNING | SaveFlags.PAUSED):
                runs = SaveFlags.RUNNING in given
            _finish(job, job.before, counter=counter, runs=runs, events=_RESTORED[runs])
    finally:
        source.close()


def _look(connection: SimConnection, path: str) -> SimImageHead:
    """Make the first visit: all that stands before the memory."""
    source = open_source(path, connection.uri, connection.check)
    try:
        connection.reach("restore", "opened", check=connection.check)
        head = read_head(source, connection.uri)
        connection.reach("restore", "head", check=connection.check)
        return head
    finally:
        source.close()


def _arrive(connection: SimConnection, xml: str) -> SimDomain:
    """Add the guest, whose memory is still to come, to its domain."""
    host = connection.host
    machine = read_machine(xml, connection.uri)

    def arrive(domain: SimDomain) -> SimDomain:
        if domain.is_active or domain.job is not None:
            found = f"Requested operation is not valid: domain '{domain.name}' is already active"
            raise failure(OPERATION_INVALID, connection.uri, found)
        arriving = replace(domain, memory_bytes=machine.memory_bytes, job=new_job("restore"))
        return arriving.started(run_id=host.new_run_id(), boot_id=read_boot_id(), live=xml)

    return host.put(replace(machine, definition=""), arrive)


def start(connection: SimConnection, domain: SimDomain, flags: int) -> int:
    """Start a domain, from its managed save image where it has one; return the number of the run."""
    given = StartFlags(flags)
    runs = StartFlags.PAUSED not in given
    owner = Owner.me() if StartFlags.AUTODESTROY in given else None
    with SimJob.begin(connection, domain, "start") as job:
        image = connection.host.managed_image(domain.name)
        if StartFlags.FORCE_BOOT in given:
            image.unlink(missing_ok=True)
        direct = StartFlags.BYPASS_CACHE in given
        managed = _open_managed(connection, job, str(image), direct=direct) if image.exists() else None
        with connection.host.locked():
            run_id = connection.host.new_run_id()
        if managed is None:
            # What libvirt cannot read it throws away, and boots.
            image.unlink(missing_ok=True)
            # A pause right from the boot counts as a person's, one after a restore does not.
            booted = replace(
                job.before,
                run_id=run_id,
                live=job.before.definition,
                autodestroy=owner,
                is_paused_by_user=not runs,
            )
            _finish(job, booted, counter=0, runs=runs, events=_BOOTED[runs])
            return run_id
        source, head = managed
        try:
            counter = load_image(job, source)
        finally:
            source.close()
        restored = replace(job.before, run_id=run_id, live=head.xml, autodestroy=owner)
        runs = runs and head.header.was_running
        _finish(job, restored, counter=counter, runs=runs, events=_RESTORED[runs])
        image.unlink(missing_ok=True)
        return run_id


def _open_managed(
    connection: SimConnection, job: SimJob, path: str, *, direct: bool
) -> tuple[Source, SimImageHead] | None:
    """Open a managed save image behind its head; None where it is no image that is whole.

    Raises:
        StorageError: it cannot be read past the page cache.
    """
    name = job.before.name
    try:
        first = open_source(path, name, job.check)
        try:
            read_head(first, name)
        finally:
            first.close()
    except (HypervisorError, StorageError):
        return None
    job.reach("opened")
    source = open_source(path, name, job.check, direct=direct)
    try:
        head = read_head(source, name)
        job.reach("head")
        check_same_domain(head.xml, connection.host.find(job.before.uuid).definition, where=path)
    except BaseException:
        source.close()
        raise
    return source, head


def _finish(job: SimJob, guest: SimDomain, *, counter: int, runs: bool, events: Sequence[str]) -> None:
    """Let the guest be there with all its memory, and run if it is to."""

    def finish(domain: SimDomain) -> SimDomain:
        here = replace(domain, job=None, autodestroy=guest.autodestroy).started(
            run_id=guest.run_id, boot_id=read_boot_id(), live=guest.live, counter=counter
        )
        if runs:
            return here.resumed(time.monotonic())
        return replace(here, is_paused_by_user=guest.is_paused_by_user)

    job.change(finish, events=events)
