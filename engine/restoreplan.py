"""Find out everything that can be known before a restore: image, domain XML, host, disks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.domxml.changes import Change
from engine.domxml.document import identity_of, parse_domain_xml
from engine.errors import DomainXmlError
from engine.findings import Finding, Survey
from engine.flags import BypassPolicy
from engine.hostcaps import qemu_user_of
from engine.hypervisor.port import Hypervisor
from engine.machineguard import check_machine
from engine.newxml import XmlPlan, XmlWish, plan_xml
from engine.operation import Operation
from engine.preflight import check_restorable, describe_xml
from engine.restoreguards import SavedDisks, check_disks, check_separate
from engine.store.images import OpenImage, open_image
from engine.store.places import check_allowed, find_image
from engine.units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """A restore that may begin."""

    #: Of the guest that will run: the image's, or the copy's.
    name: str
    uuid: str
    xml: XmlPlan
    #: What nobody can tell beforehand, a sentence each.
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSurvey:
    """What a preflight of a restore found; `plan` where nothing stands in the way."""

    findings: list[Finding]
    plan: RestorePlan | None
    #: Length of the image, which is what will be read; None where it could not be opened.
    image_bytes: int | None
    dxml_changes: tuple[Change, ...] = ()

    def raise_first(self) -> None:
        """Raise what stands in the way, if anything does."""
        Survey(self.findings).raise_first()

    def to_dict(self) -> dict[str, Any]:
        """Return findings and estimate as `--dry-run --json` prints them."""
        return {
            "dry_run": True,
            "domain": None if self.plan is None else self.plan.name,
            "domain_uuid": None if self.plan is None else self.plan.uuid,
            "findings": [finding.to_dict() for finding in self.findings],
            "dxml_changes": [asdict(change) for change in self.dxml_changes],
            "estimate": {"bytes": self.image_bytes},
        }


@contextmanager
def open_source(operation: Operation, path: Path, policy: BypassPolicy) -> Iterator[OpenImage]:
    """Give the image of a file or restore point, open for reading while the block runs.

    Raises:
        PathNotAllowedError: it lies outside the allowed directories.
        ImageFormatError, ImageIncompleteError, StorageError, BypassError: it cannot be restored, or not so.
    """
    check_allowed(path, operation.allowed_roots)
    found = find_image(path)
    # A person's own link is followed; in a job it could lead out of the allowed directories.
    image = open_image(found.resolve() if operation.allowed_roots is None else found, policy)
    try:
        yield image
    finally:
        image.file.close()


def survey_restore(
    operation: Operation, image: OpenImage, wish: XmlWish, *, force_stale_disks: bool = False
) -> RestoreSurvey:
    """Look at everything, whatever is found; no guest is started.

    Args:
        operation: the surroundings.
        image: complete, and open for reading.
        wish: what to use in place of the image's own domain XML.
        force_stale_disks: disks that were written since the save are no obstacle.
    """
    survey, hypervisor = Survey(), operation.hypervisor
    where = str(image.file.path)
    survey.findings.append(Finding(name="image", detail=_describe_image(image)))
    xml = survey.look("dxml", lambda: _plan_xml(hypervisor, image, wish), describe_xml)
    if xml is None:
        return RestoreSurvey(findings=survey.findings, plan=None, image_bytes=image.size)
    identity = identity_of(parse_domain_xml(xml.xml, where=where), where=where)
    name, uuid = identity.name, str(identity.uuid)
    survey.look(
        "domain",
        lambda: check_restorable(hypervisor, name, uuid),
        lambda _: f"{name} ({uuid}) is not running here" + (", a copy" if xml.is_copy else ""),
    )
    warnings = [
        *_look(survey, "machine", lambda: check_machine(hypervisor, image, xml.xml if xml.changes else None)),
        *_look(survey, "disks", lambda: look_at_disks(operation, image, xml, force_stale_disks)),
    ]
    if xml.is_copy:
        warnings += _look(survey, "copy", lambda: check_separate(image.head.domain_xml, xml.xml, where=name))
    plan = None
    if not any(finding.error for finding in survey.findings):
        plan = RestorePlan(name=name, uuid=uuid, xml=xml, warnings=tuple(warnings))
    return RestoreSurvey(
        findings=survey.findings, plan=plan, image_bytes=image.size, dxml_changes=xml.changes
    )


def look_at_disks(operation: Operation, image: OpenImage, xml: XmlPlan, force_stale_disks: bool) -> list[str]:
    """Refuse disks that the guest must not be restored over; return what else is to be said of them.

    Raises:
        StorageError, StaleDiskError: of the first such disk, or of all that changed.
    """
    saved = SavedDisks.of(image.manifest, os.fstat(image.file.fd).st_mtime_ns)
    return check_disks(
        operation,
        str(image.file.path),
        xml.xml,
        saved,
        qemu_user=qemu_user_of(operation.hypervisor),
        force_stale_disks=force_stale_disks,
    )


def _look(survey: Survey, name: str, check: Callable[[], list[str]]) -> list[str]:
    """Add a finding, and a warning for each sentence that the check returns; return these."""
    warnings = (
        survey.look(name, check, lambda found: "fits, as far as can be told" if found else "fits") or []
    )
    for warning in warnings:
        survey.warn(name, warning)
    return warnings


def _plan_xml(hypervisor: Hypervisor, image: OpenImage, wish: XmlWish) -> XmlPlan:
    where = str(image.file.path)
    saved = image.head.domain_xml
    if identity_of(parse_domain_xml(saved, where=where), where=where).uuid is None:
        raise DomainXmlError(where, "domain XML without a <uuid>", "one, as in every image libvirt makes")
    return plan_xml(saved, wish, where=where, is_image=True, libvirt=hypervisor.versions().libvirt)


def _describe_image(image: OpenImage) -> str:
    kind = image.head.header.format.name.lower()
    proof = "its checksum is compared on the way" if image.manifest else "no manifest to compare it with"
    return f"{format_size(image.size)}, complete, {kind}, {proof}"
