"""Give callers rows as frozen values, free of any session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from tasks.catalog import models
from tasks.states import FINAL, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One job as the catalog knows it at one moment."""

    job_id: str
    #: The firing of a policy, or the command, that it belongs to.
    run_id: str | None
    op: str
    host: str
    #: As addressed: name or UUID; None for a restore.
    domain: str | None
    domain_name: str | None
    domain_uuid: str | None
    params: dict[str, Any]
    state: JobState
    attempt: int
    #: Last step that the engine reported, such as "stream".
    step: str | None
    bytes_done: int | None
    #: An estimate; None: unknown.
    bytes_total: int | None
    #: One sentence: why it ended as it did; None while it has not, or when it succeeded.
    reason: str | None
    #: The engine's error object (class, code, message, hint, ...), where one was given.
    error: dict[str, Any] | None
    #: The engine's result object of a job that succeeded.
    result: dict[str, Any] | None
    created_at: datetime
    #: When the doorbell was last rung; None: it waits for somebody to ring.
    rung_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    #: When somebody asked for it to stop.
    cancel_requested_at: datetime | None
    #: When its next attempt may be rung for; None: it is the first.
    due_at: datetime | None
    #: The job that this one does again.
    retry_of: str | None

    @property
    def is_final(self) -> bool:
        """Tell whether the job will never change again."""
        return self.state in FINAL

    @property
    def label(self) -> str:
        """Return what a person calls the job's domain: its name, its address, or the image's path."""
        return self.domain_name or self.domain or str(self.params.get("path", "?"))

    @classmethod
    def of(cls, row: models.Job) -> Self:
        """Return the view of a row."""
        same = {name: getattr(row, name) for name in cls.__slots__ if name not in {"job_id", "state"}}
        return cls(job_id=row.id, state=JobState(row.state), **same)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One thing a host said about a job."""

    job_id: str
    seq: int
    attempt: int
    at: datetime
    #: state, step or guest.
    kind: str
    body: dict[str, Any]

    @classmethod
    def of(cls, row: models.JobEvent) -> Self:
        """Return the view of a row."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """One hypervisor node as it last reported."""

    name: str
    uri: str | None
    worker_version: str | None
    libvirt_version: str | None
    qemu_version: str | None
    store: str | None
    store_free_bytes: int | None
    store_used_bytes: int | None
    #: Whether its worker could ask libvirt when it last looked; None: never looked.
    libvirt_up: bool | None
    #: When somebody asked that it take no more jobs; None: it shall take them.
    drain_requested_at: datetime | None
    #: Whether its worker takes no more jobs, as it last said.
    draining: bool | None
    #: When its worker last reported.
    seen_at: datetime | None

    @classmethod
    def of(cls, row: models.Host) -> Self:
        """Return the view of a row."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainView:
    """One libvirt guest definition as last seen on a host."""

    host: str
    uuid: str
    name: str
    #: libvirt's word: running, paused, shutoff, ...
    state: str
    memory_bytes: int
    persistent: bool
    has_managed_save: bool
    tags: tuple[str, ...]
    seen_at: datetime

    @classmethod
    def of(cls, row: models.Domain) -> Self:
        """Return the view of a row."""
        same = {name: getattr(row, name) for name in cls.__slots__ if name != "tags"}
        return cls(tags=tuple(row.tags), **same)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePointView:
    """One published save image."""

    host: str
    #: The image file or the restore point's directory.
    path: str
    job_id: str | None
    domain_name: str | None
    domain_uuid: str | None
    manifest_path: str | None
    size_bytes: int
    checksum_algorithm: str | None
    checksum_value: str | None
    taken_at: datetime
    #: What its guest needs of a host (engine.domxml.requirements); None: nobody wrote it down.
    requirements: dict[str, Any] | None

    @classmethod
    def of(cls, row: models.RestorePoint) -> Self:
        """Return the view of a row."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionView:
    """One request of an operator that came over Celery, and what became of it."""

    #: As the caller chose it; None where none could be read.
    run_id: str | None
    #: As claimed; proven where is_authentic.
    key_id: str | None
    #: Whether the signature was right.
    is_authentic: bool
    op: str | None
    received_at: datetime
    #: accepted or refused.
    state: str
    #: One sentence: why it was refused, or what was left out; None: nothing to say.
    reason: str | None
    job_count: int

    @classmethod
    def of(cls, row: models.Submission) -> Self:
        """Return the view of a row."""
        return cls(**{name: getattr(row, name) for name in cls.__slots__})
