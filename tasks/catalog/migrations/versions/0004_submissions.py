"""Add the table of what operators asked for over Celery."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tasks.catalog.columns import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.create_table(
        "submissions",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.Column("key_id", sa.String(length=64), nullable=True),
        sa.Column("is_authentic", sa.Boolean(), nullable=False),
        sa.Column("op", sa.String(length=32), nullable=True),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_submissions"),
    )
    op.create_index("ix_submissions_run_id", "submissions", ["run_id"], unique=False)
    op.create_index(
        "ix_submissions_one_authentic",
        "submissions",
        ["run_id"],
        unique=True,
        sqlite_where=sa.text("is_authentic"),
        postgresql_where=sa.text("is_authentic"),
    )
