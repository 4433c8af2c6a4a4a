"""Bring a catalog's tables to the layout of this version."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from tasks.catalog.database import WRITES, create_database_engine, unreachable_named

#: Where the migrations are.
SCRIPTS: Final = Path(__file__).with_name("migrations")
#: Any number that no other program takes: who holds it migrates, the rest wait.
_POSTGRESQL_LOCK: Final = 0x666C6565


def migrate(url: str) -> None:
    """Run the migrations that the database has not seen, in one transaction; nothing if it has seen them all.

    Args:
        url: SQLAlchemy URL; a missing SQLite file is created, its directory is not.

    Raises:
        ConfigError: no URL of a database that can be used.
        BrokerError: the database cannot be reached.
    """
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    head = ScriptDirectory.from_config(config).get_current_head()
    engine = create_database_engine(url)
    try:
        with unreachable_named():
            with engine.connect() as connection:
                if _revision(connection) == head:
                    return
            with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
                _wait_for_others(connection)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
    finally:
        engine.dispose()


def find_revision(url: str) -> str | None:
    """Return the last migration that the database has seen; None: none at all.

    Raises:
        ConfigError: no URL of a database that can be used.
        BrokerError: the database cannot be reached.
    """
    engine = create_database_engine(url)
    try:
        with unreachable_named(), engine.connect() as connection:
            return _revision(connection)
    finally:
        engine.dispose()


def _revision(connection: Connection) -> str | None:
    """Return the last migration that the database has seen."""
    return MigrationContext.configure(connection).get_current_revision()


def _wait_for_others(connection: Connection) -> None:
    """Wait while somebody else migrates; on SQLite the transaction itself did."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _POSTGRESQL_LOCK})
