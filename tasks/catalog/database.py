"""Create the SQLAlchemy engine, with what SQLite needs to serve several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from tasks.errors import BrokerError, ConfigError

#: Seconds a writer waits for another one; SQLite has one writer at a time.
BUSY_TIMEOUT_SECONDS: Final = 30.0
#: Execution option: the transaction will write.
WRITES: Final = "fleetsave_writes"


@contextmanager
def unreachable_named() -> Iterator[None]:
    """Turn a lost or missing database into the error that says so."""
    try:
        yield
    except OperationalError as error:
        raise BrokerError("catalog", str(error.orig), "a database that answers", "see catalog_url") from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise BrokerError("catalog", str(error.orig), "a database that answers", "see catalog_url") from error


def create_database_engine(url: str) -> Engine:
    """Return an engine; on SQLite with a write-ahead log, foreign keys and one writer that others wait for.

    Raises:
        ConfigError: no URL of a database that can be used.
    """
    try:
        engine = create_engine(url, pool_pre_ping=make_url(url).get_backend_name() != "sqlite")
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError("catalog_url", str(error), "sqlite:////path or postgresql+psycopg://...") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Set what SQLite keeps per connection."""
    # The driver would begin a transaction only at the first write, too late to wait for another writer.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    """Take the write lock at once where a write is coming: upgrading a read later fails at once, unwaited."""
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
