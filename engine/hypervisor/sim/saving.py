"""Write guests to files in the order in which libvirt does it, mistakes included.

Source: libvirt src/qemu/qemu_driver.c, qemuDomainSaveInternal(), doCoreDump();
src/qemu/qemu_snapshot.c, qemuSnapshotCreateActiveExternal().
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from lxml import etree

from engine.errors import DomainXmlError
from engine.flags import DumpFlags, DumpFormat, SaveFlags
from engine.hypervisor.sim.codes import (
    INVALID_ARG,
    OPERATION_FAILED,
    OPERATION_INVALID,
    OPERATION_UNSUPPORTED,
    check_flags,
    failure,
)
from engine.hypervisor.sim.connection import SimConnection
from engine.hypervisor.sim.domain import RUNNING, SimDomain
from engine.hypervisor.sim.job import NOT_RUNNING, SimJob
from engine.hypervisor.sim.machine import check_abi
from engine.hypervisor.sim.writing import write_dump, write_image

_FLAGS: Final = SaveFlags.BYPASS_CACHE | SaveFlags.RUNNING | SaveFlags.PAUSED
_FORMATS: Final = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
_DUMP_EXCLUSIVE: Final = (DumpFlags.CRASH, DumpFlags.LIVE, DumpFlags.RESET)


def save(
    connection: SimConnection,
    domain: SimDomain,
    path: str,
    dxml: str | None,
    flags: int,
    *,
    kind: str = "save",
) -> None:
    """Stop the guest and write it to path."""
    given = SaveFlags(flags)
    check_flags(given, _FLAGS, domain.name)
    with SimJob.begin(connection, domain, kind) as job:
        was_running = job.before.state == RUNNING
        if given & (SaveFlags.RUNNING | SaveFlags.PAUSED):
            was_running = SaveFlags.RUNNING in given
        # As in libvirt, the flags also decide what becomes of the guest when the save fails.
        job.pause(resumes=was_running)
        xml = job.before.live
        if dxml is not None:
            check_abi(xml, dxml, domain.name)
            xml = dxml
        direct = SaveFlags.BYPASS_CACHE in given
        write_image(job, path, xml, was_running=was_running, direct=direct)
        job.end()
        job.reach("ended")


def managed_save(connection: SimConnection, domain: SimDomain, flags: int) -> None:
    """Stop the guest and write it where the host keeps such images."""
    if not domain.is_active:
        raise failure(OPERATION_INVALID, domain.name, NOT_RUNNING)
    if not domain.is_persistent:
        found = "Requested operation is not valid: cannot do managed save for transient domain"
        raise failure(OPERATION_INVALID, domain.name, found)
    path = connection.host.managed_image(domain.name)
    save(connection, domain, str(path), None, flags, kind="managed-save")


def check_format(domain: SimDomain, image_format: str | None, channels: int | None) -> None:
    """Refuse an image format that is not raw, in libvirt's words.

    Raises:
        InvalidArgumentError, NotSupportedError, HypervisorError: it is.
    """
    name = domain.name
    if image_format is not None and image_format not in _FORMATS:
        raise failure(OPERATION_FAILED, name, f"operation failed: Invalid image_format '{image_format}'")
    if channels is not None and channels < 1:
        found = "invalid argument: number of parallel save channels cannot be less than 1"
        raise failure(INVALID_ARG, name, found)
    if channels is not None and image_format != "sparse":
        found = "invalid argument: Parallel save is only supported with the 'sparse' save image format"
        raise failure(INVALID_ARG, name, found)
    if image_format == "sparse":
        found = "Operation not supported: save image format sparse is not supported by this QEMU binary"
        raise failure(OPERATION_UNSUPPORTED, name, found)
    if image_format not in {None, "raw"}:
        found = f"operation failed: Compression program for {image_format} isn't available"
        raise failure(OPERATION_FAILED, name, found)


def checkpoint(connection: SimConnection, domain: SimDomain, snapshot_xml: str) -> None:
    """Write the guest's memory while it runs; it is paused for the end of the transfer only."""
    path = _memory_file(domain, snapshot_xml)
    with SimJob.begin(connection, domain, "checkpoint") as job:
        was_running = job.before.state == RUNNING
        write_image(job, path, job.before.live, was_running=was_running, pause=job.pause)
        job.let_go_on()
        job.reach("ended")


def core_dump(connection: SimConnection, domain: SimDomain, path: str, dump_format: int, flags: int) -> None:
    """Write the guest's memory to path; the guest stands meanwhile, even with LIVE, as QEMU has it."""
    given = _check_dump(domain, dump_format, flags)
    with SimJob.begin(connection, domain, "dump") as job:
        job.pause()
        write_dump(job, path, direct=DumpFlags.BYPASS_CACHE in given)
        if DumpFlags.CRASH in given:
            job.end()
        else:
            if DumpFlags.RESET in given:
                job.change(lambda now: replace(now, ran_seconds=0.0))
            job.let_go_on()
        job.reach("ended")


def _check_dump(domain: SimDomain, dump_format: int, flags: int) -> DumpFlags:
    if dump_format not in set(DumpFormat):
        raise failure(INVALID_ARG, domain.name, f"dumpformat '{dump_format}' is not supported")
    given = DumpFlags(flags)
    exclusive = [flag.name for flag in _DUMP_EXCLUSIVE if flag in given]
    if len(exclusive) > 1:
        found = f"Flags 'VIR_DUMP_{exclusive[0]}' and 'VIR_DUMP_{exclusive[1]}' are mutually exclusive"
        raise failure(INVALID_ARG, domain.name, found)
    if dump_format and DumpFlags.MEMORY_ONLY not in given:
        found = "Operation not supported: kdump-compressed format is only supported with memory-only dump"
        raise failure(OPERATION_UNSUPPORTED, domain.name, found)
    return given


def _memory_file(domain: SimDomain, snapshot_xml: str) -> str:
    """Return the file that a snapshot XML names for the memory."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        memory = etree.fromstring(snapshot_xml.encode(), parser).find("memory")
    except etree.XMLSyntaxError as error:
        raise DomainXmlError(domain.name, f"XML error: {error}") from error
    path = None if memory is None else memory.get("file")
    if memory is None or memory.get("snapshot") != "external" or not path:
        found = "Operation not supported: a live snapshot is supported only with the memory"
        raise failure(OPERATION_UNSUPPORTED, domain.name, found)
    if not domain.is_active:
        found = "XML error: memory state cannot be saved with offline or disk-only snapshot"
        raise DomainXmlError(domain.name, found)
    return path
