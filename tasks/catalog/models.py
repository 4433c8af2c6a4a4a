"""Lay out the catalog's tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, ForeignKeyConstraint, Index, MetaData, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tasks.catalog.columns import UtcDateTime
from tasks.states import UNFINISHED

_UNFINISHED_SQL = text("state IN ({})".format(", ".join(f"'{state}'" for state in sorted(UNFINISHED))))


_GAPS_SQL = text("gaps > 0")


class Base(DeclarativeBase):
    """Every table; constraints have names so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
    }


class Host(Base):
    """One hypervisor node that has ever reported."""

    __tablename__ = "hosts"

    name: Mapped[str] = mapped_column(String(253), primary_key=True)
    uri: Mapped[str | None] = mapped_column(Text)
    worker_version: Mapped[str | None] = mapped_column(String(64))
    libvirt_version: Mapped[str | None] = mapped_column(String(64))
    qemu_version: Mapped[str | None] = mapped_column(String(64))
    store: Mapped[str | None] = mapped_column(Text)
    store_free_bytes: Mapped[int | None] = mapped_column(BigInteger)
    store_used_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: Whether the worker could ask libvirt when it last looked.
    libvirt_up: Mapped[bool | None]
    #: What guests it can run (engine.domxml.offer); None: it never said.
    capabilities: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: When the worker last reported.
    seen_at: Mapped[datetime | None]
    #: When somebody asked that it take no more jobs; None: it shall take them.
    drain_requested_at: Mapped[datetime | None]
    #: Whether its worker takes no more jobs, as it last said.
    draining: Mapped[bool | None]
    #: When the list of domains was last taken.
    domains_at: Mapped[datetime | None]


class Domain(Base):
    """One libvirt guest definition as last seen on a host; the row goes when the host no longer lists it."""

    __tablename__ = "domains"

    host: Mapped[str] = mapped_column(ForeignKey("hosts.name", ondelete="CASCADE"), primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), index=True)
    state: Mapped[str] = mapped_column(String(32))
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    persistent: Mapped[bool]
    has_managed_save: Mapped[bool]
    tags: Mapped[list[str]]
    seen_at: Mapped[datetime]


class Job(Base):
    """One operation on one domain; state goes forward only (tasks.states)."""

    __tablename__ = "jobs"
    __table_args__ = (
        # Two submitters at once: the database decides which of them is first.
        Index(
            "ix_jobs_one_unfinished",
            "host",
            "target",
            unique=True,
            sqlite_where=_UNFINISHED_SQL,
            postgresql_where=_UNFINISHED_SQL,
        ),
        # The reconciler walks through these in this order.
        Index(
            "ix_jobs_unfinished",
            "created_at",
            "id",
            sqlite_where=_UNFINISHED_SQL,
            postgresql_where=_UNFINISHED_SQL,
        ),
        Index("ix_jobs_gaps", "id", sqlite_where=_GAPS_SQL, postgresql_where=_GAPS_SQL),
        # Lists are the newest first, whatever they are narrowed down to.
        Index("ix_jobs_created_at", "created_at"),
        Index("ix_jobs_state", "state", "created_at"),
        Index("ix_jobs_host", "host", "created_at"),
        Index("ix_jobs_finished_at", "finished_at"),
        # Beginnings of ids; by the bytes, whatever the database's language sorts by.
        Index("ix_jobs_id", "id", postgresql_ops={"id": "varchar_pattern_ops"}),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: The firing of a policy, or the command, that it belongs to.
    run_id: Mapped[str | None] = mapped_column(String(64), index=True)
    op: Mapped[str] = mapped_column(String(32))
    host: Mapped[str] = mapped_column(String(253))
    #: As addressed: name or UUID; None for a restore.
    domain: Mapped[str | None] = mapped_column(String(255), index=True)
    domain_name: Mapped[str | None] = mapped_column(String(255), index=True)
    domain_uuid: Mapped[str | None] = mapped_column(String(36), index=True)
    #: What no two unfinished jobs of a host may share: the UUID where known, else name or path.
    target: Mapped[str] = mapped_column(Text)
    params: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=1)
    #: One sentence: why it ended as it did; None for success.
    reason: Mapped[str | None] = mapped_column(Text)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    step: Mapped[str | None] = mapped_column(String(32))
    #: Number of the event that step comes from; an older one changes nothing.
    step_seq: Mapped[int] = mapped_column(default=0)
    bytes_done: Mapped[int | None] = mapped_column(BigInteger)
    bytes_total: Mapped[int | None] = mapped_column(BigInteger)
    progress_seq: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    #: When the doorbell was last rung; None: not yet, somebody has to.
    rung_at: Mapped[datetime | None]
    #: When the host last said anything about it, by the control side's clock.
    heard_at: Mapped[datetime | None]
    #: When the host was last asked what it knows about it.
    asked_at: Mapped[datetime | None]
    #: Events of its present attempt that the host has numbered and nobody here has seen.
    gaps: Mapped[int] = mapped_column(default=0, server_default="0")
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    #: When somebody asked for it to stop; the host hears of it by a flag in Redis (tasks.cancel).
    cancel_requested_at: Mapped[datetime | None]
    #: When its next attempt may be rung for; None: it is the first, at any time.
    due_at: Mapped[datetime | None]
    #: The job that this one does again, at somebody's wish.
    retry_of: Mapped[str | None] = mapped_column(String(64))


class Attempt(Base):
    """One try of a job by a worker."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(String(253))
    state: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)


class JobEvent(Base):
    """One thing a host said about a job; its number makes saying it twice harmless.

    What the control side itself decided about a job stands here too, with numbers below 1.
    """

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    #: From 1, in the order the host saw it; progress, which is not kept, has numbers too.
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    #: Number of the event before it that is kept; 0: it is the first; None: its host does not say.
    after_seq: Mapped[int | None]
    at: Mapped[datetime]
    #: state, step or guest; of the control side: state or attempt.
    kind: Mapped[str] = mapped_column(String(16))
    body: Mapped[dict[str, Any]]


class RestorePoint(Base):
    """One published save image that a job made."""

    __tablename__ = "restore_points"
    __table_args__ = (
        ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="SET NULL"),
        Index("ix_restore_points_domain", "domain_uuid", "taken_at"),
    )

    host: Mapped[str] = mapped_column(String(253), primary_key=True)
    #: The image file or the restore point's directory.
    path: Mapped[str] = mapped_column(String(4096), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(String(64), index=True)
    domain_name: Mapped[str | None] = mapped_column(String(255))
    domain_uuid: Mapped[str | None] = mapped_column(String(36))
    manifest_path: Mapped[str | None] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    checksum_algorithm: Mapped[str | None] = mapped_column(String(32))
    checksum_value: Mapped[str | None] = mapped_column(String(128))
    taken_at: Mapped[datetime]
    #: What its guest needs of a host (engine.domxml.requirements); None: nobody wrote it down.
    requirements: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Lease(Base):
    """Who may do what only one may do, until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(255))
    #: Grows with every change of the owner: an owner that was away too long finds another number.
    epoch: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]


class Submission(Base):
    """One request of an operator that came over Celery, and what became of it."""

    __tablename__ = "submissions"
    __table_args__ = (
        # What strangers claim takes no id away from anybody.
        Index(
            "ix_submissions_one_authentic",
            "run_id",
            unique=True,
            sqlite_where=text("is_authentic"),
            postgresql_where=text("is_authentic"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    #: As the caller chose it, the run_id of its jobs; None where none could be read.
    run_id: Mapped[str | None] = mapped_column(String(64), index=True)
    #: As claimed; proven where is_authentic.
    key_id: Mapped[str | None] = mapped_column(String(64))
    #: Whether the signature was right.
    is_authentic: Mapped[bool]
    op: Mapped[str | None] = mapped_column(String(32))
    received_at: Mapped[datetime]
    #: accepted or refused.
    state: Mapped[str] = mapped_column(String(16))
    #: One sentence: why it was refused, or what was left out.
    reason: Mapped[str | None] = mapped_column(Text)
    job_count: Mapped[int] = mapped_column(default=0)


class StreamPosition(Base):
    """How far a host's event stream has been applied."""

    __tablename__ = "stream_positions"

    host: Mapped[str] = mapped_column(String(253), primary_key=True)
    #: Redis stream id of the last applied entry.
    position: Mapped[str] = mapped_column(String(64))
