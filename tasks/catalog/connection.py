"""Open the catalog's database and bound every use of it by one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy.orm import Session

from tasks.catalog.database import WRITES, create_database_engine, unreachable_named
from tasks.catalog.migrate import migrate


class Catalog:
    """The database, with one way to read it and one to change it; safe in threads."""

    def __init__(self, url: str) -> None:
        self._engine = create_database_engine(url)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that sees one state of the catalog and changes nothing."""
        with unreachable_named(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that is durable when the block ends, and never was if it raises."""
        with unreachable_named(), Session(self._engine, expire_on_commit=False) as session:
            session.connection(execution_options={WRITES: True})
            try:
                yield session
                session.commit()
            except BaseException:
                session.rollback()
                raise

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_catalog(url: str) -> Catalog:
    """Return the catalog at the URL, its tables brought up to date.

    Raises:
        ConfigError: no URL of a database that can be used.
        BrokerError: the database cannot be reached.
    """
    migrate(url)
    return Catalog(url)
