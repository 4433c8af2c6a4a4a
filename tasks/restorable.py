"""Tell which restore points a host can take, from what both have said; no guest and no host is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.domxml.fitting import Missing, list_missing
from engine.domxml.offer import HostCapabilities, parse_host_capabilities
from engine.domxml.requirements import parse_requirements
from tasks.catalog import Catalog, RestorePointView, queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a host can take a restore point."""

    #: None: nobody can tell.
    is_restorable: bool | None
    #: What the host lacks, and what it may lack.
    missing: tuple[Missing, ...] = ()
    #: Why nobody can tell, where that is not for something missing.
    unknown: str = ""

    @property
    def word(self) -> str:
        """Return "yes", "no" or "unknown"."""
        return "unknown" if self.is_restorable is None else "yes" if self.is_restorable else "no"

    @property
    def reason(self) -> str:
        """Return why it is not "yes"; empty where it is."""
        counted = [each for each in self.missing if each.is_certain] or self.missing
        return self.unknown or "; ".join(str(each) for each in counted)

    def to_dict(self) -> dict[str, Any]:
        """Return what `points list --restorable-on` adds to a point."""
        return {
            "restorable": self.is_restorable,
            "missing": [each.to_dict() for each in self.missing],
            "unknown": self.unknown or None,
        }


def known_capabilities(catalog: Catalog, host: str) -> HostCapabilities | str:
    """Return what a host last said it can run; a sentence where it said nothing that can be used.

    Raises:
        UsageError: nobody knows the host.
    """
    document = queries.find_capabilities(catalog, host)
    if document is None:
        return f"{host} has not said yet what it can run"
    try:
        return parse_host_capabilities(document)
    except ValueError as error:
        return f"what {host} said it can run is not understood: {error}"


def judge_points(points: Iterable[RestorePointView], host: HostCapabilities | str) -> list[Verdict]:
    """Return the verdict on each point.

    Args:
        points: any, wherever their images lie.
        host: what the host can run; a sentence: why that is not known.
    """
    return [_judge(point, host) for point in points]


def sum_up(verdicts: Sequence[Verdict], host: str) -> str:
    """Return one sentence about the points that do not fit; empty where all do."""
    left = [verdict for verdict in verdicts if not verdict.is_restorable]
    if not left:
        return ""
    # What points differ in is left out, so that equal reasons are counted together.
    reasons = Counter(
        verdict.unknown or ", ".join(dict.fromkeys(each.what for each in verdict.missing)) for verdict in left
    )
    told = "; ".join(f"{count} for {reason}" for reason, count in reasons.most_common())
    unknown = sum(verdict.is_restorable is None for verdict in left)
    doubt = f" ({unknown} of them: nobody can tell)" if unknown else ""
    left_out = f"{len(left)} of {len(verdicts)} points do not count as restorable on {host}{doubt}"
    return f"{left_out}: {told}; --all tells more"


def _judge(point: RestorePointView, host: HostCapabilities | str) -> Verdict:
    if isinstance(host, str):
        return Verdict(is_restorable=None, unknown=host)
    if not point.requirements:
        return Verdict(is_restorable=None, unknown="what its guest needs was not written down")
    try:
        needed = parse_requirements(point.requirements)
    except ValueError as error:
        return Verdict(is_restorable=None, unknown=f"what its guest needs is not understood: {error}")
    missing = list_missing(needed, host)
    if any(each.is_certain for each in missing):
        return Verdict(is_restorable=False, missing=missing)
    return Verdict(is_restorable=None if missing else True, missing=missing)
