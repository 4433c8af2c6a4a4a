"""Add what hosts can run and what restore points need: machine, processor, firmware, devices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.add_column("hosts", sa.Column("capabilities", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("restore_points", sa.Column("requirements", sa.JSON(none_as_null=True), nullable=True))
