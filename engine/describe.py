"""Put what an operation did into a manifest and an outcome."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from engine.checksum import Checksum
from engine.directio.target import DirectFile
from engine.domxml.changes import Change
from engine.domxml.document import parse_domain_xml
from engine.domxml.requirements import describe_requirements
from engine.flags import BypassFailure, BypassPolicy
from engine.image.manifest import Manifest
from engine.operation import Operation
from engine.outcome import BypassReport, Outcome
from engine.preflight import SavePlan
from engine.store.record import Record, read_boot_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What one stream moved."""

    file: DirectFile
    #: Bytes of the image.
    size: int
    #: None where only libvirt saw the bytes.
    checksum: Checksum | None
    #: The image's first block once it is complete; empty for a restore.
    final_block: bytes
    #: Seconds from the first byte to the end of the sync.
    seconds: float
    #: Bytes of the image in the page cache afterwards.
    resident_bytes: int = 0

    def bypass_report(self) -> BypassReport:
        """Return what became of the page cache."""
        return BypassReport(
            policy=self.file.policy,
            direct=self.file.is_direct and self.resident_bytes == 0,
            direct_bytes=self.size if self.file.is_direct else 0,
            buffered_bytes=0 if self.file.is_direct else self.size,
            resident_bytes=self.resident_bytes,
            failures=tuple(self.file.failures),
        )

    def throughput(self) -> float:
        """Return bytes per second."""
        return self.size / max(self.seconds, 1e-9)


def describe_record(operation: Operation, plan: SavePlan, *, op: str, data_path: str = "stream") -> Record:
    """Return what recovery has to know of an operation that is about to write."""
    return Record(
        job_id=operation.job_id,
        op=op,
        domain=plan.domain.name,
        domain_uuid=plan.domain.uuid,
        run_id=plan.domain.run_id,
        was_running=plan.domain.is_running,
        final=str(plan.place.final),
        is_point=plan.place.is_point,
        boot_id=read_boot_id(),
        data_path=data_path,
    )


def describe_image(
    operation: Operation,
    plan: SavePlan,
    transfer: Transfer,
    *,
    op: str,
    domain_xml: str,
    was_running: bool,
    paused_seconds: float,
    disks: list[dict[str, Any]],
    data_path: str = "stream",
    cookie: str | None = None,
) -> Manifest:
    """Return the manifest of an image that is whole; `cookie` is None where nothing will be restored."""
    assert transfer.checksum is not None, "an image of ours is always checksummed"
    root = parse_domain_xml(domain_xml, where=plan.domain.name)
    os_type = root.find("os/type")
    return Manifest(
        job_id=operation.job_id,
        op=op,
        domain=plan.domain.name,
        domain_uuid=plan.domain.uuid,
        host=operation.host,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        fleetsave_version=version("fleetsave"),
        libvirt_version=plan.versions.libvirt,
        hypervisor_version=plan.versions.hypervisor,
        machine="" if os_type is None else os_type.get("machine", ""),
        cpu_model=(root.findtext("cpu/model") or "").strip(),
        was_running=was_running,
        image_bytes=transfer.size,
        checksum=transfer.checksum,
        guest_paused_seconds=paused_seconds,
        duration_seconds=operation.seconds(),
        throughput_bytes_per_second=transfer.throughput(),
        data_path=data_path,
        bypass_cache=_plain(asdict(transfer.bypass_report())),
        dxml_changes=[asdict(change) for change in plan.dxml_changes],
        disks=disks,
        # Only a guest that ended with its image left its disks as its memory knows them.
        disks_consistent=op == "save" or not disks,
        simulated=operation.hypervisor.is_simulated,
        requirements={}
        if cookie is None
        else describe_requirements(
            domain_xml,
            cookie,
            where=plan.domain.name,
            saved_by=plan.versions.hypervisor,
            host_cpu=plan.host_cpu,
        ),
    )


def describe_outcome(operation: Operation, manifest: Manifest, path: str, *, state: str) -> Outcome:
    """Return the outcome of an operation from its image's manifest."""
    outcome = recall_outcome(manifest, path, state=state)
    return replace(outcome, host=operation.host, duration_seconds=operation.seconds())


def recall_outcome(manifest: Manifest, path: str, *, state: str) -> Outcome:
    """Return the outcome of an operation that ended some time ago, as far as its manifest knows it."""
    bypass = dict(manifest.bypass_cache)
    bypass["policy"] = BypassPolicy(bypass["policy"])
    bypass["failures"] = tuple(BypassFailure(reason) for reason in bypass["failures"])
    return Outcome(
        op=manifest.op,
        job_id=manifest.job_id,
        domain=manifest.domain,
        domain_uuid=manifest.domain_uuid,
        host=manifest.host,
        path=path,
        bytes=manifest.image_bytes,
        duration_seconds=manifest.duration_seconds,
        guest_paused_seconds=manifest.guest_paused_seconds,
        throughput_bytes_per_second=manifest.throughput_bytes_per_second,
        was_running=manifest.was_running,
        bypass_cache=BypassReport(**bypass),
        checksum=manifest.checksum,
        data_path=manifest.data_path,
        simulated=manifest.simulated,
        dxml_changes=tuple(Change(**change) for change in manifest.dxml_changes),
        state=state,
        requirements=manifest.requirements,
    )


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Return the same values with enumerations as text and tuples as lists, as JSON will have them."""
    return {
        key: [str(item) for item in value]
        if isinstance(value, tuple)
        else str(value)
        if isinstance(value, str)
        else value
        for key, value in document.items()
    }
