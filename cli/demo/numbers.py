"""Compare what the workers' /metrics said before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cli.demo.checks import CheckList
from cli.demo.fleet import Samples
from cli.output import NOTHING, format_bytes, format_seconds

#: What the demo moves, and what must stay at 0.
SHOWN: Final = (
    "fleetsave_jobs_total",
    "fleetsave_bytes_written_total",
    "fleetsave_bytes_read_total",
    "fleetsave_guest_paused_seconds_sum",
    "fleetsave_page_cache_resident_bytes",
    "fleetsave_cache_bypass_failures_total",
)

Scrapes = Mapping[str, Samples]


def total(scrapes: Scrapes, name: str, **labels: str) -> float:
    """Return the sum over all hosts of the samples of that name that carry these labels."""
    return sum(
        value
        for samples in scrapes.values()
        for (found, pairs), value in samples.items()
        if found == name and labels.items() <= dict(pairs).items()
    )


def list_changes(before: Scrapes, after: Scrapes) -> list[dict[str, object]]:
    """Return the shown samples that moved on any host: metric, host, before, after."""
    keys = sorted({key for samples in after.values() for key in samples if key[0] in SHOWN})
    return [
        {"metric": _format_key(key), "host": host, "before": old, "after": new}
        for key in sorted(keys, key=lambda key: (SHOWN.index(key[0]), key[1]))
        for host, samples in after.items()
        if (new := samples.get(key, 0.0)) != (old := before[host].get(key, 0.0))
    ]


def tabulate(changes: list[dict[str, object]], hosts: list[str]) -> list[tuple[str, ...]]:
    """Return one row for each metric that moved, with a cell for each host."""
    moved: dict[str, dict[str, str]] = {}
    for change in changes:
        name = str(change["metric"])
        cells = moved.setdefault(name.removeprefix("fleetsave_"), {})
        cells[str(change["host"])] = f"{_value(name, change['before'])} -> {_value(name, change['after'])}"
    return [(name, *(cells.get(host, NOTHING) for host in hosts)) for name, cells in moved.items()]


def check_metrics(checks: CheckList, before: Scrapes, after: Scrapes, *, count: int, size: int) -> None:
    """Check that the workers counted what was done, and no cache-bypass failure."""
    for op in ("save", "restore"):
        labels = {"op": op, "outcome": "succeeded"}
        counted = total(after, "fleetsave_jobs_total", **labels) - total(
            before, "fleetsave_jobs_total", **labels
        )
        checks.add(f"/metrics counts every {op}", counted == count, f"jobs_total +{counted:.0f}")
    written = {"op": "save", "mode": "direct"}
    counted = total(after, "fleetsave_bytes_written_total", **written) - total(
        before, "fleetsave_bytes_written_total", **written
    )
    seen = f"bytes_written_total +{counted:.0f}"
    checks.add("/metrics counts the bytes of all images", counted == size, seen)
    paused = total(after, "fleetsave_guest_paused_seconds_sum", op="save")
    checks.add("/metrics knows how long guests stood still", paused > 0, format_seconds(paused))
    failures = total(after, "fleetsave_cache_bypass_failures_total")
    resident = total(after, "fleetsave_page_cache_resident_bytes")
    seen = f"failures {failures:.0f}, resident bytes {resident:.0f}"
    checks.add("/metrics shows no cache-bypass failure", failures == resident == 0, seen)


def _format_key(key: tuple[str, tuple[tuple[str, str], ...]]) -> str:
    name, labels = key
    return f"{name}{{{','.join(f'{label}={value}' for label, value in labels)}}}"


def _value(name: str, value: object) -> str:
    assert isinstance(value, float)
    if "bytes" in name:
        return format_bytes(value)
    return format_seconds(value) if "seconds" in name else f"{value:.0f}"
