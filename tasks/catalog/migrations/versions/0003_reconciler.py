"""Let a scheduler reconcile: who leads, what was heard and asked of jobs, events by attempt; indexes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tasks.catalog.columns import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UNFINISHED = sa.text("state IN ('committing', 'queued', 'running')")
_GAPS = sa.text("gaps > 0")


def upgrade() -> None:
    """Go to this version."""
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.add_column("jobs", sa.Column("heard_at", UtcDateTime(), nullable=True))
    op.add_column("jobs", sa.Column("asked_at", UtcDateTime(), nullable=True))
    op.add_column("jobs", sa.Column("gaps", sa.Integer(), server_default="0", nullable=False))
    # A job that is sent to another host is told about from number 1 again.
    with op.batch_alter_table("job_events") as events:
        events.add_column(sa.Column("after_seq", sa.Integer(), nullable=True))
        events.drop_constraint("pk_job_events", type_="primary")
        events.create_primary_key("pk_job_events", ["job_id", "attempt", "seq"])
    _create_indexes()


def _create_indexes() -> None:
    op.drop_index("ix_jobs_state", "jobs")
    op.create_index("ix_jobs_state", "jobs", ["state", "created_at"])
    op.create_index("ix_jobs_host", "jobs", ["host", "created_at"])
    op.create_index("ix_jobs_domain", "jobs", ["domain"])
    op.create_index("ix_jobs_domain_name", "jobs", ["domain_name"])
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    op.create_index("ix_jobs_id", "jobs", ["id"], postgresql_ops={"id": "varchar_pattern_ops"})
    op.create_index(
        "ix_jobs_unfinished",
        "jobs",
        ["created_at", "id"],
        sqlite_where=_UNFINISHED,
        postgresql_where=_UNFINISHED,
    )
    op.create_index("ix_jobs_gaps", "jobs", ["id"], sqlite_where=_GAPS, postgresql_where=_GAPS)
