"""Gather what a preflight found, each thing with its own error, in the order it was looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.errors import EngineError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at before a guest was touched."""

    #: "domain", "target", "bypass", "space", ...
    name: str
    #: What is; a sentence for people.
    detail: str
    #: What stands in the way; None where nothing does.
    error: EngineError | None = None
    #: Nothing stands in the way for certain, yet the hypervisor may refuse.
    is_warning: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON has it."""
        verdict = "error" if self.error else "warning" if self.is_warning else "ok"
        document: dict[str, Any] = {"name": self.name, "verdict": verdict, "detail": self.detail}
        if self.error is not None:
            document["error"] = self.error.to_dict()
        return document


@dataclass(slots=True)
class Survey:
    """Findings so far; looking goes on after one that stands in the way."""

    findings: list[Finding] = field(default_factory=list)

    def look(self, name: str, check: Callable[[], T], describe: Callable[[T], str]) -> T | None:
        """Return what the check found; None, and a finding with the error, when it refused."""
        try:
            found = check()
        except EngineError as error:
            self.findings.append(Finding(name=name, detail=str(error), error=error))
            return None
        self.findings.append(Finding(name=name, detail=describe(found)))
        return found

    def warn(self, name: str, detail: str) -> None:
        """Add a warning."""
        self.findings.append(Finding(name=name, detail=detail, is_warning=True))

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for finding in self.findings:
            if finding.error is not None:
                raise finding.error
