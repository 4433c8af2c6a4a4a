"""Collect what was claimed and whether it holds."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cli.output import format_bytes
from engine.image.manifest import parse_manifest
from engine.store.places import IMAGE_NAME, MANIFEST_NAME
from tasks.catalog import JobView
from tasks.states import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim."""

    claim: str
    passed: bool
    #: What was seen.
    seen: str


@dataclass(slots=True)
class CheckList:
    """All claims so far."""

    checks: list[Check] = field(default_factory=list)

    def add(self, claim: str, passed: bool, seen: object) -> None:
        """Note one claim and what was seen."""
        self.checks.append(Check(claim=claim, passed=bool(passed), seen=str(seen)))

    def add_all(self, claim: str, wrong: Iterable[str], seen: str) -> None:
        """Note a claim about several things: it holds if nothing is wrong with any."""
        faults = list(wrong)
        self.add(claim, not faults, "; ".join(faults) or seen)

    @property
    def passed(self) -> bool:
        """Tell whether all claims hold, and there are any."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def check_jobs(checks: CheckList, jobs: list[JobView], op: str, count: int) -> None:
    """Check that all jobs of an operation succeeded and none left a page of its image in the cache."""
    wrong = [f"{job.label}: {job.state}, {job.reason}" for job in jobs if job.state is not JobState.SUCCEEDED]
    if len(jobs) != count:
        wrong.append(f"{len(jobs)} jobs, want {count}")
    checks.add_all(f"every {op} succeeded", wrong, f"{count} jobs")
    bypass = {job.label: (job.result or {}).get("bypass_cache", {}) for job in jobs}
    buffered = [
        f"{label}: {one.get('buffered_bytes')} bytes through it"
        for label, one in bypass.items()
        if one.get("buffered_bytes") != 0 or not one.get("direct_bytes")
    ]
    total = sum(one.get("direct_bytes", 0) for one in bypass.values())
    checks.add_all(f"every {op} went past the page cache", buffered, f"{format_bytes(total)} by O_DIRECT")
    left = [
        f"{label}: {one.get('resident_bytes')}"
        for label, one in bypass.items()
        if one.get("resident_bytes") != 0
    ]
    checks.add_all(f"no {op} left a page of its image cached", left, "0 bytes resident")


def check_points(checks: CheckList, jobs: list[JobView]) -> None:
    """Check what saves left on disk: private files, and manifests that agree with the results."""
    points = {job.label: Path((job.result or {}).get("path", "/nonexistent")) for job in jobs}
    wrong = [fault for job in jobs for fault in _find_disagreement(points[job.label], job)]
    checks.add_all("image, manifest and job agree", wrong, "sizes and BLAKE3 checksums")
    public = [fault for point in points.values() if point.is_dir() for fault in _find_public(point)]
    checks.add_all("nobody else may read a guest's memory", public, "files 0600, directories 0700")


def _find_disagreement(point: Path, job: JobView) -> list[str]:
    """Return what image, manifest and the job's result say differently."""
    image, manifest = point / IMAGE_NAME, point / MANIFEST_NAME
    if not manifest.is_file() or not image.is_file() or job.result is None:
        return [f"{job.label}: no whole restore point at {point}"]
    told = parse_manifest(manifest.read_text(), path=str(manifest))
    sizes = {image.stat().st_size, told.image_bytes, job.result["bytes"]}
    sums = {told.checksum.value, job.result["checksum"]["value"]}
    faults = [f"{job.label}: sizes {sizes}"] if len(sizes) > 1 else []
    return [*faults, f"{job.label}: checksums {sums}"] if len(sums) > 1 else faults


def _find_public(point: Path) -> list[str]:
    """Return what in a restore point has another mode than it should."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (point, *point.iterdir())}
    return [
        f"{path} is {mode:o}" for path, mode in modes.items() if mode != (0o700 if path == point else 0o600)
    ]
