"""Find out everything that can be known before a guest is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.directio.probe import free_bytes, probe_direct_io
from engine.domxml.changes import Change, list_changes
from engine.domxml.document import check_same_domain, parse_domain_xml
from engine.errors import (
    DomainBusyError,
    EngineError,
    InvalidArgumentError,
    NoDomainError,
    NoSpaceError,
    NotSupportedError,
    WrongStateError,
)
from engine.flags import BypassPolicy, SaveFlags
from engine.hypervisor.port import Domain, Hypervisor, Versions
from engine.image.header import ImageFormat
from engine.operation import Operation
from engine.store.images import OpenImage
from engine.store.places import Place, check_allowed, check_store, check_target, plan_file, plan_point
from engine.units import MiB, format_size

#: Bytes beside the guest's memory: head, device state, manifest, and room for rounding.
IMAGE_MARGIN: Final = 64 * MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePlan:
    """A save that may begin."""

    domain: Domain
    place: Place
    #: Asked beforehand: in the commit window libvirt must not be spoken to.
    versions: Versions
    #: Most bytes the image will need, as far as the hypervisor knows.
    estimate_bytes: int
    dxml_changes: tuple[Change, ...]


def check_flags(flags: SaveFlags) -> None:
    """Refuse flags that exclude each other, in libvirt's words.

    Raises:
        InvalidArgumentError: RUNNING and PAUSED together.
    """
    if SaveFlags.RUNNING in flags and SaveFlags.PAUSED in flags:
        raise InvalidArgumentError(
            "flags", "--running and --paused are mutually exclusive", "at most one of them"
        )


def find_idle_domain(hypervisor: Hypervisor, name_or_uuid: str) -> Domain:
    """Return an active domain that no job runs on.

    Raises:
        NoDomainError, WrongStateError, DomainBusyError: there is none such.
    """
    domain = hypervisor.find_domain(name_or_uuid)
    if not domain.is_active:
        raise WrongStateError(
            domain.name,
            f"domain is not running but {domain.state}",
            "a running or paused one",
            "start it first",
        )
    if domain.state not in {"running", "paused"}:
        raise WrongStateError(domain.name, f"domain is {domain.state}", "running or paused")
    if domain.running_job:
        raise DomainBusyError(
            domain.name, f"libvirt has a {domain.running_job} on it", "none", "virsh domjobinfo shows it"
        )
    return domain


def preflight_save(
    operation: Operation, name_or_uuid: str, to: Path | None, dxml: str | None, policy: BypassPolicy
) -> SavePlan:
    """Return the plan of a save that nothing known stands in the way of.

    Raises:
        EngineError: of the class that says what stands in the way; the guest was not touched.
    """
    if to is not None:
        check_allowed(to.parent, operation.allowed_roots)
        check_target(to)
    elif operation.store is None:
        raise InvalidArgumentError(
            "--to", "no target and no store", "one of them", "give --to FILE or set host.store"
        )
    else:
        check_allowed(operation.store, operation.allowed_roots)
        check_store(operation.store)
    domain = find_idle_domain(operation.hypervisor, name_or_uuid)
    changes = check_dxml(operation.hypervisor, domain, dxml) if dxml is not None else ()
    if to is not None:
        place, directory = plan_file(to, operation.job_id), to.parent
    else:
        assert operation.store is not None
        place = plan_point(operation.store, domain.uuid, operation.job_id, operation.started_at)
        directory = operation.store
    probe_direct_io(directory, policy)
    estimate = estimate_image(domain)
    free = free_bytes(directory)
    if free < estimate:
        raise NoSpaceError(
            str(directory), f"{format_size(free)} free", f"{format_size(estimate)} for {domain.name}",
            "free space or choose another --to or store",
        )  # fmt: skip
    return SavePlan(
        domain=domain,
        place=place,
        versions=operation.hypervisor.versions(),
        estimate_bytes=estimate,
        dxml_changes=changes,
    )


def estimate_image(domain: Domain) -> int:
    """Return the most bytes an image of the domain should take."""
    known = domain.resident_memory_bytes or domain.memory_bytes
    return min(domain.memory_bytes, known) + IMAGE_MARGIN


def check_dxml(hypervisor: Hypervisor, domain: Domain, dxml: str) -> tuple[Change, ...]:
    """Return what a dxml changes; refuse one that is no domain XML, or of another domain.

    Raises:
        DomainXmlError, AbiError: it is.
    """
    live = hypervisor.domain_xml(domain.uuid, migratable=True)
    check_same_domain(live, dxml, where="dxml")
    return list_changes(parse_domain_xml(live, where=domain.name), parse_domain_xml(dxml, where="dxml"))


def check_restorable(hypervisor: Hypervisor, image: OpenImage, name: str, uuid: str) -> None:
    """Refuse an image that libvirt would refuse, or that the stream cannot carry.

    Raises:
        WrongStateError: the domain is already active.
        EngineError: name or UUID belong to another domain here.
        NotSupportedError: the image's format needs a seekable file.
    """
    if image.head.header.format is ImageFormat.SPARSE:
        raise NotSupportedError(
            str(image.file.path), "a sparse image, which QEMU reads by itself", "raw or compressed",
            "restore it with virsh restore",
        )  # fmt: skip
    by_uuid = _find(hypervisor, uuid)
    by_name = _find(hypervisor, name)
    if by_uuid is not None and by_uuid.is_active:
        raise WrongStateError(name, f"domain is already active ({by_uuid.state})", "one that is shut off")
    if by_uuid is not None and by_uuid.name != name:
        raise EngineError(name, f"UUID {uuid} belongs to domain {by_uuid.name!r} here", "the same name")
    if by_name is not None and by_name.uuid != uuid:
        raise EngineError(name, f"a domain of this name has UUID {by_name.uuid} here", uuid)


def _find(hypervisor: Hypervisor, name_or_uuid: str) -> Domain | None:
    try:
        return hypervisor.find_domain(name_or_uuid)
    except NoDomainError:
        return None
