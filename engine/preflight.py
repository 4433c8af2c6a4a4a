"""Find out everything that can be known before a guest is touched."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from engine.directio.probe import free_bytes, probe_direct_io
from engine.domxml.blockers import list_blockers
from engine.domxml.capabilities import HostCpu
from engine.domxml.changes import Change
from engine.domxml.disks import Disk, list_disks
from engine.domxml.document import parse_domain_xml
from engine.errors import (
    AbiError,
    DomainBusyError,
    EngineError,
    InvalidArgumentError,
    NoDomainError,
    NoSpaceError,
    NotSupportedError,
    WrongStateError,
)
from engine.findings import Finding, Survey
from engine.flags import BypassPolicy, SaveFlags
from engine.hostcaps import given_host_cpu
from engine.hypervisor.port import Domain, Hypervisor, Versions
from engine.newxml import XmlPlan, XmlWish, plan_xml
from engine.operation import Operation
from engine.store.places import Place, check_allowed, check_store, check_target, plan_file, plan_point
from engine.units import MiB, format_size

#: Bytes beside the guest's memory: head, device state, manifest, and room for rounding.
IMAGE_MARGIN: Final = 64 * MiB
#: Those that open a save image twice, and let the guest go only after the second time.
_STREAMING_DRIVERS: Final = frozenset({"qemu", "sim"})
#: Seconds that the end of a live transfer takes where nobody asked for less (QEMU's downtime-limit).
_LIVE_PAUSE_SECONDS: Final = 0.3
#: What to do where another domain has the name or the UUID.
_AS_HINT: Final = "restore a copy under a name of its own with --as"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePlan:
    """A save that may begin."""

    domain: Domain
    place: Place
    #: Asked beforehand: in the commit window libvirt must not be spoken to.
    versions: Versions
    #: Most bytes the image will need, as far as the hypervisor knows.
    estimate_bytes: int
    #: Domain XML to hand on to the hypervisor; None = the guest's own.
    dxml: str | None
    dxml_changes: tuple[Change, ...]
    #: Those that the guest has now, whatever a dxml makes of them.
    disks: tuple[Disk, ...]
    #: The host's own processor where the guest was given it; else None.
    host_cpu: HostCpu | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSurvey:
    """What a preflight of a save found; `plan` where nothing stands in the way."""

    findings: list[Finding]
    plan: SavePlan | None
    #: Bytes per second that the target took in a short trial; 0 where it could not be tried.
    rate: float = 0.0
    live: bool = False
    dxml_changes: tuple[Change, ...] = field(default=())

    def raise_first(self) -> None:
        """Raise what stands in the way, if anything does."""
        Survey(self.findings).raise_first()

    def to_dict(self) -> dict[str, Any]:
        """Return findings and estimates as `--dry-run --json` prints them."""
        size = self.plan.estimate_bytes if self.plan else None
        seconds = size / self.rate if size and self.rate else None
        return {
            "dry_run": True,
            "domain": self.plan.domain.name if self.plan else None,
            "path": str(self.plan.place.image) if self.plan else None,
            "findings": [finding.to_dict() for finding in self.findings],
            "dxml_changes": [
                {"xpath": change.xpath, "old": change.old, "new": change.new} for change in self.dxml_changes
            ],
            "estimate": {
                "bytes": size,
                "seconds": seconds,
                "guest_paused_seconds": _LIVE_PAUSE_SECONDS if self.live else seconds,
            },
        }


def check_flags(flags: SaveFlags) -> None:
    """Refuse flags that exclude each other, in libvirt's words.

    Raises:
        InvalidArgumentError: RUNNING and PAUSED together.
    """
    if SaveFlags.RUNNING in flags and SaveFlags.PAUSED in flags:
        raise InvalidArgumentError(
            "flags", "--running and --paused are mutually exclusive", "at most one of them"
        )


def check_streams(hypervisor: Hypervisor) -> None:
    """Refuse a stream where nobody knows that it is safe: a driver without the two visits loses the guest.

    Raises:
        NotSupportedError: the driver is not QEMU's.
    """
    if hypervisor.driver not in _STREAMING_DRIVERS:
        raise NotSupportedError(
            "data path", f"stream on the {hypervisor.driver} driver", "qemu", "take the native data path"
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


def survey_save(
    operation: Operation,
    name_or_uuid: str,
    to: Path | None,
    wish: XmlWish | None,
    policy: BypassPolicy,
    *,
    live: bool = False,
) -> SaveSurvey:
    """Look at everything, whatever is found; the guest is not touched.

    Args:
        operation: the surroundings.
        name_or_uuid: the domain.
        to: the file to make; None = a restore point in the store.
        wish: what the restore shall use in place of the guest's own XML; None: nothing.
        policy: what to do about the page cache.
        live: the guest is to go on running.
    """
    survey, hypervisor = Survey(), operation.hypervisor
    directory = survey.look(
        "target", lambda: _find_target(operation, to), lambda path: f"{path} takes images"
    )
    domain = survey.look(
        "domain",
        lambda: _find_fitting(hypervisor, name_or_uuid, live=live),
        lambda found: f"is {found.state}",
    )
    xml: XmlPlan | None = None
    if domain is not None:
        _look_at_blockers(survey, hypervisor, domain)
        if wish is not None and wish != XmlWish():
            xml = survey.look("dxml", lambda: _plan_dxml(hypervisor, domain, wish), describe_xml)
    rate = 0.0
    if directory is not None:
        rate = survey.look(
            "bypass",
            lambda: probe_direct_io(directory, policy),
            lambda measured: f"policy {policy}, {format_size(measured)}/s in a short trial",
        ) or 0.0  # fmt: skip
        if domain is not None:
            survey.look(
                "space",
                lambda: _check_space(directory, domain),
                lambda free: (
                    f"{format_size(free)} free, at most {format_size(estimate_image(domain))} needed"
                ),
            )
    plan = None
    if domain is not None and directory is not None and not any(finding.error for finding in survey.findings):
        plan = _plan(operation, domain, to, xml)
    changes = () if xml is None else xml.changes
    return SaveSurvey(findings=survey.findings, plan=plan, rate=rate, live=live, dxml_changes=changes)


def preflight_save(
    operation: Operation,
    name_or_uuid: str,
    to: Path | None,
    wish: XmlWish | None,
    policy: BypassPolicy,
    *,
    live: bool = False,
) -> SavePlan:
    """Return the plan of a save that nothing known stands in the way of.

    Raises:
        EngineError: of the class that says what stands in the way; the guest was not touched.
    """
    survey = survey_save(operation, name_or_uuid, to, wish, policy, live=live)
    survey.raise_first()
    assert survey.plan is not None, "no finding stands in the way"
    return survey.plan


def _find_target(operation: Operation, to: Path | None) -> Path:
    """Return the directory that will hold the image."""
    if to is not None:
        check_allowed(to.parent, operation.allowed_roots)
        check_target(to, operation.job_id)
        return to.parent
    if operation.store is None:
        raise InvalidArgumentError(
            "--to", "no target and no store", "one of them", "give --to FILE or set host.store"
        )
    check_allowed(operation.store, operation.allowed_roots)
    check_store(operation.store)
    return operation.store


def _find_fitting(hypervisor: Hypervisor, name_or_uuid: str, *, live: bool) -> Domain:
    domain = find_idle_domain(hypervisor, name_or_uuid)
    if live and not domain.is_running:
        raise WrongStateError(domain.name, f"domain is {domain.state}", "a running one", "use fleetsave save")
    return domain


def _look_at_blockers(survey: Survey, hypervisor: Hypervisor, domain: Domain) -> None:
    """Add a finding for each thing that libvirt refuses, or may refuse, to save."""
    root = parse_domain_xml(hypervisor.domain_xml(domain.uuid), where=domain.name)
    for blocker in list_blockers(root):
        if blocker.is_certain:
            error = NotSupportedError(domain.name, f"has a {blocker.what}", "", blocker.hint)
            survey.findings.append(Finding(name="blocker", detail=str(error), error=error))
        else:
            survey.warn("blocker", f"{domain.name} has a {blocker.what}: {blocker.hint}")


def _check_space(directory: Path, domain: Domain) -> int:
    free, estimate = free_bytes(directory), estimate_image(domain)
    if free < estimate:
        raise NoSpaceError(
            str(directory), f"{format_size(free)} free", f"{format_size(estimate)} for {domain.name}",
            "free space or choose another --to or store",
        )  # fmt: skip
    return free


def _plan(operation: Operation, domain: Domain, to: Path | None, xml: XmlPlan | None) -> SavePlan:
    if to is not None:
        place = plan_file(to, operation.job_id)
    else:
        assert operation.store is not None
        place = plan_point(operation.store, domain.uuid, operation.job_id, operation.started_at)
    return SavePlan(
        domain=domain,
        place=place,
        versions=operation.hypervisor.versions(),
        estimate_bytes=estimate_image(domain),
        dxml=None if xml is None else xml.dxml,
        dxml_changes=() if xml is None else xml.changes,
        disks=list_disks(parse_domain_xml(operation.hypervisor.domain_xml(domain.uuid), where=domain.name)),
        host_cpu=given_host_cpu(operation.hypervisor, domain.uuid),
    )


def estimate_image(domain: Domain) -> int:
    """Return the most bytes an image of the domain should take."""
    known = domain.resident_memory_bytes or domain.memory_bytes
    return min(domain.memory_bytes, known) + IMAGE_MARGIN


def describe_xml(plan: XmlPlan) -> str:
    """Return a preflight's words for domain XML that may be used."""
    count = len(plan.changes)
    return f"{count} change{'' if count == 1 else 's'}, none that the guest would notice"


def _plan_dxml(hypervisor: Hypervisor, domain: Domain, wish: XmlWish) -> XmlPlan:
    """Return the XML for the restore, compared with what the image will hold, else with the guest's live XML.

    libvirt makes both ready for an image before it compares them: a dump of the live guest is as good.

    Raises:
        DomainXmlError, AbiError: it cannot be used.
    """
    version = hypervisor.versions().libvirt
    plan = partial(plan_xml, wish=wish, where=domain.name, is_image=False, libvirt=version)
    try:
        return plan(hypervisor.domain_xml(domain.uuid, migratable=True))
    except AbiError:
        if wish.dxml is None:
            raise
        with suppress(AbiError):
            return plan(hypervisor.domain_xml(domain.uuid))
        raise


def check_restorable(hypervisor: Hypervisor, name: str, uuid: str) -> None:
    """Refuse a guest that libvirt would refuse to restore.

    Raises:
        WrongStateError: the domain is already active.
        EngineError: name or UUID belong to another domain here.
    """
    by_uuid = _find(hypervisor, uuid)
    by_name = _find(hypervisor, name)
    if by_uuid is not None and by_uuid.is_active:
        raise WrongStateError(
            name, f"domain is already active ({by_uuid.state})", "one that is shut off",
            "shut it off, or restore a copy beside it with --as",
        )  # fmt: skip
    if by_uuid is not None and by_uuid.name != name:
        raise EngineError(
            name, f"UUID {uuid} belongs to domain {by_uuid.name!r} here", "the same name", _AS_HINT
        )
    if by_name is not None and by_name.uuid != uuid:
        raise EngineError(name, f"a domain of this name has UUID {by_name.uuid} here", uuid, _AS_HINT)


def _find(hypervisor: Hypervisor, name_or_uuid: str) -> Domain | None:
    try:
        return hypervisor.find_domain(name_or_uuid)
    except NoDomainError:
        return None
