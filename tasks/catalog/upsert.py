"""Insert a row unless it is there, in the dialect of the database at hand."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tasks.catalog.models import Base


def insert_missing(session: Session, table: type[Base], **values: Any) -> bool:
    """Insert the row; tell whether it was missing. Two writers at once do not disturb each other."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    result = session.execute(insert(table).values(**values).on_conflict_do_nothing())
    assert isinstance(result, CursorResult)
    return result.rowcount == 1
