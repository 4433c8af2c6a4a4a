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
    left = [
        f"{label}: {one.get('resident_bytes')}"
        for label, one in bypass.items()
        if one.get("resident_bytes") != 0
    ]
    checks.add_all(f"no {op} left a page of its image in the page cache", left, "0 bytes resident each")
    buffered = [
        f"{label}: {one.get('buffered_bytes')} bytes through the cache"
        for label, one in bypass.items()
        if one.get("buffered_bytes") != 0 or not one.get("direct_bytes")
    ]
    total = sum(one.get("direct_bytes", 0) for one in bypass.values())
    checks.add_all(f"every {op} went past the page cache", buffered, f"{format_bytes(total)} with O_DIRECT")


def check_point(checks: CheckList, job: JobView) -> None:
    """Check what a save left on disk: private files, and a manifest that agrees with the result."""
    result = job.result or {}
    point = Path(result.get("path", "/nonexistent"))
    image, manifest = point / IMAGE_NAME, point / MANIFEST_NAME
    if not manifest.is_file():
        checks.add(f"{job.label}: the restore point is complete", False, f"no {manifest}")
        return
    told = parse_manifest(manifest.read_text(), path=str(manifest))
    size = image.stat().st_size
    is_whole = (
        size == told.image_bytes == result["bytes"] and told.checksum.value == result["checksum"]["value"]
    )
    seen = f"{format_bytes(size)}, {told.checksum.algorithm} {told.checksum.value[:16]}..."
    checks.add(f"{job.label}: image, manifest and job agree on size and checksum", is_whole, seen)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (point, *point.iterdir())}
    wrong = [
        f"{name} is {mode:o}"
        for name, mode in modes.items()
        if mode != (0o700 if name == point.name else 0o600)
    ]
    checks.add_all(
        f"{job.label}: nobody else may read the guest's memory", wrong, "files 0600, directory 0700"
    )
