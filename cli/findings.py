"""Show what was looked at, what stands in the way, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cli.failure import printable
from cli.output import NOTHING, print_table
from engine.findings import Finding

_COLUMNS = ("looked at", "verdict", "what is", "what to do")


def print_findings(findings: Iterable[Finding]) -> None:
    """Print a table on standard output."""
    print_table(_COLUMNS, [_row(finding) for finding in findings])


def exit_code_of_findings(findings: Sequence[Finding]) -> int:
    """Return the exit code of the first thing that stands in the way, 0 where nothing does."""
    return next((finding.error.exit_code for finding in findings if finding.error is not None), 0)


def _row(finding: Finding) -> tuple[str, ...]:
    if finding.error is not None:
        found, hint, verdict = finding.error.message, finding.error.hint, "error"
    else:
        found, hint, verdict = finding.detail, "", "warning" if finding.is_warning else "ok"
    return (finding.name, verdict, printable(found), printable(hint) or NOTHING)
