"""Say what became of one domain in a command, and what exit code several of them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cli.output import format_bytes, format_rate, format_seconds
from engine.errors import CancelledError, EngineError
from tasks.states import JobState

if TYPE_CHECKING:
    from tasks.catalog.views import JobView

#: Some domains of several failed.
PARTLY_DONE: Final = 3
_CANCELLED: Final = CancelledError.exit_code

_DONE_WORDS: Final = {
    "save": "saved",
    "restore": "restored",
    "checkpoint": "checkpointed",
    "managed-save": "saved (managed by libvirt)",
    "managed-save-remove": "managed save image removed",
    "dump": "dumped",
    "start": "started",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One operation on one domain, as far as the command followed it."""

    op: str
    #: The domain as it was named; the image's path until a restore knows better.
    label: str
    host: str
    job_id: str | None = None
    #: Where the job stands; None for an operation that was no job.
    job_state: JobState | None = None
    #: The engine's result object.
    result: dict[str, Any] | None = None
    #: The engine's error object.
    error: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """Return 0 unless it failed."""
        return 0 if self.error is None else int(self.error.get("code", 1))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object: the result, or an error, or that the job is on its way."""
        job = {} if self.job_state is None else {"job_state": str(self.job_state)}
        if self.result is not None:
            return {**self.result, **job}
        # A restore learns its domain from the image.
        found: dict[str, Any] = {"op": self.op, "path" if self.op == "restore" else "domain": self.label}
        found["host"] = self.host
        if self.job_id is not None:
            found["job_id"] = self.job_id
        return {**found, **job} if self.error is None else {**found, **job, "error": self.error}

    @property
    def path(self) -> str:
        """Return the image or restore point, "" where there is none to name."""
        return str((self.result or {}).get("path") or "")

    def sentence(self) -> str:
        """Return what was done."""
        if self.result is None:
            return f"{self.label}: {self.op} is {self.job_state or 'not done'} on {self.host}"
        result = self.result
        facts = [f"{result['domain']}: {_DONE_WORDS.get(self.op, self.op)} on {result['host']}"]
        if result["bytes"]:
            facts.append(f"{format_bytes(result['bytes'])} in {format_seconds(result['duration_seconds'])}")
            facts.append(format_rate(result["throughput_bytes_per_second"]))
            facts.append(f"guest paused {format_seconds(result['guest_paused_seconds'])}")
            facts.append(f"{format_bytes(result['bypass_cache']['resident_bytes'])} in page cache")
        else:
            # A boot, or an image that libvirt keeps where nobody may look.
            facts.append(f"in {format_seconds(result['duration_seconds'])}")
        if result.get("state") not in {"", "saved", None}:
            facts.append(f"now {result['state']}")
        return ", ".join(facts)

    def line(self) -> str:
        """Return what was done and where the image is, on one line."""
        return f"{self.sentence()}: {self.path}" if self.path else self.sentence()

    def row(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        state = str(self.job_state or ("succeeded" if self.error is None else "failed"))
        if self.error is not None:
            state = f"{state} ({self.exit_code})"
        if self.result is None:
            return (self.label, self.host, *("-",) * 5, state)
        result = self.result
        return (
            result["domain"],
            result["host"],
            format_bytes(result["bytes"] or None),
            format_seconds(result["duration_seconds"]),
            format_rate(result["throughput_bytes_per_second"] if result["bytes"] else None),
            format_seconds(result["guest_paused_seconds"]),
            format_bytes(result["bypass_cache"]["resident_bytes"]),
            state,
        )


COLUMNS: Final = ("domain", "host", "size", "time", "rate", "guest pause", "in page cache", "state")
NUMBERS: Final = ("size", "time", "rate", "guest pause", "in page cache")


def of_job(job: JobView) -> Finished:
    """Return what became of a job, or where it stands."""
    error = job.error
    if job.is_final and job.state is not JobState.SUCCEEDED and error is None:
        reason = job.reason or f"job {job.job_id} is {job.state} and nobody said why"
        kind = CancelledError if job.state is JobState.CANCELLED else EngineError
        error = kind(job.label, reason, hint=f"fleetsave jobs show {job.job_id}").to_dict()
    return Finished(
        op=job.op,
        label=job.label,
        host=job.host,
        job_id=job.job_id,
        job_state=job.state,
        result=job.result if job.state is JobState.SUCCEEDED else None,
        error=error if job.is_final else None,
    )


def exit_code_of(finished: Sequence[Finished]) -> int:
    """Return 0 if all went well, the one code that all failed with, else 3."""
    codes = {one.exit_code for one in finished}
    if len(codes) <= 1:
        return codes.pop() if codes else 0
    return PARTLY_DONE
