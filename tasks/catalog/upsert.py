"""Insert a row unless it is there, in the dialect of the database at hand."""

from __future__ import annotations

from typing import Any

from sqlalchemy import literal
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tasks.catalog.models import Base


def insert_missing(session: Session, table: type[Base], **values: Any) -> bool:
    """Insert the row; tell whether it was missing. Two writers at once do not disturb each other."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(table).values(**values).on_conflict_do_nothing()
    # Not by the cursor's count of rows: psycopg's is not kept for inserts.
    return session.execute(statement.returning(literal(1))).first() is not None
