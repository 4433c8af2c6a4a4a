"""Add when a job's next attempt is due, which job it repeats, and which hosts are drained."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tasks.catalog.columns import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.add_column("jobs", sa.Column("due_at", UtcDateTime(), nullable=True))
    op.add_column("jobs", sa.Column("retry_of", sa.String(length=64), nullable=True))
    op.add_column("hosts", sa.Column("drain_requested_at", UtcDateTime(), nullable=True))
    op.add_column("hosts", sa.Column("draining", sa.Boolean(), nullable=True))
