"""Make the first tables: hosts, domains, jobs, attempts, events, restore points, stream positions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tasks.catalog.columns import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_UNFINISHED = sa.text("state IN ('committing', 'queued', 'running')")


def upgrade() -> None:
    """Go to this version."""
    _create_hosts()
    _create_domains()
    _create_jobs()
    _create_attempts()
    _create_job_events()
    _create_restore_points()
    _create_stream_positions()


def _create_hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("uri", sa.Text(), nullable=True),
        sa.Column("worker_version", sa.String(length=64), nullable=True),
        sa.Column("libvirt_version", sa.String(length=64), nullable=True),
        sa.Column("qemu_version", sa.String(length=64), nullable=True),
        sa.Column("store", sa.Text(), nullable=True),
        sa.Column("store_free_bytes", sa.BigInteger(), nullable=True),
        sa.Column("store_used_bytes", sa.BigInteger(), nullable=True),
        sa.Column("libvirt_up", sa.Boolean(), nullable=True),
        sa.Column("seen_at", UtcDateTime(), nullable=True),
        sa.Column("domains_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_hosts"),
    )


def _create_domains() -> None:
    op.create_table(
        "domains",
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("persistent", sa.Boolean(), nullable=False),
        sa.Column("has_managed_save", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["host"], ["hosts.name"], name="fk_domains_host", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("host", "uuid", name="pk_domains"),
    )
    op.create_index("ix_domains_name", "domains", ["name"], unique=False)


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.Column("op", sa.String(length=32), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("domain", sa.String(length=255), nullable=True),
        sa.Column("domain_name", sa.String(length=255), nullable=True),
        sa.Column("domain_uuid", sa.String(length=36), nullable=True),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("step", sa.String(length=32), nullable=True),
        sa.Column("step_seq", sa.Integer(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=True),
        sa.Column("bytes_total", sa.BigInteger(), nullable=True),
        sa.Column("progress_seq", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("rung_at", UtcDateTime(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("cancel_requested_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"], unique=False)
    op.create_index("ix_jobs_domain_uuid", "jobs", ["domain_uuid"], unique=False)
    op.create_index(
        "ix_jobs_one_unfinished",
        "jobs",
        ["host", "target"],
        unique=True,
        sqlite_where=_UNFINISHED,
        postgresql_where=_UNFINISHED,
    )
    op.create_index("ix_jobs_run_id", "jobs", ["run_id"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state"], unique=False)


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
    )


def _create_job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_job_events"),
    )


def _create_restore_points() -> None:
    op.create_table(
        "restore_points",
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("path", sa.String(length=4096), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("domain_name", sa.String(length=255), nullable=True),
        sa.Column("domain_uuid", sa.String(length=36), nullable=True),
        sa.Column("manifest_path", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum_algorithm", sa.String(length=32), nullable=True),
        sa.Column("checksum_value", sa.String(length=128), nullable=True),
        sa.Column("taken_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_restore_points_job_id", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("host", "path", name="pk_restore_points"),
    )
    op.create_index("ix_restore_points_domain", "restore_points", ["domain_uuid", "taken_at"], unique=False)
    op.create_index("ix_restore_points_job_id", "restore_points", ["job_id"], unique=False)


def _create_stream_positions() -> None:
    op.create_table(
        "stream_positions",
        sa.Column("host", sa.String(length=253), nullable=False),
        sa.Column("position", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_stream_positions"),
    )
