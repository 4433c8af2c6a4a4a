"""Every catalog that was ever made comes up to today, with what is in it."""

from collections.abc import Callable

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from tasks.catalog import migrate, models, open_catalog, queries
from tasks.catalog.database import WRITES, create_database_engine
from tasks.catalog.migrate import SCRIPTS

REVISIONS = [script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()][::-1]


def migrate_to(engine: Engine, revision: str) -> None:
    """Stop at an earlier version."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@pytest.mark.parametrize("revision", REVISIONS)
def test_catalog_of_each_version_comes_up_to_the_models(new_url: Callable[[], str], revision: str) -> None:
    """With its jobs and events; then Alembic sees no difference, the indexes included."""
    url = new_url()
    engine = create_database_engine(url)
    migrate_to(engine, revision)
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        connection.execute(
            text(
                "INSERT INTO jobs"
                " (id, op, host, target, params, state, attempt, step_seq, progress_seq, created_at)"
                " VALUES ('j1', 'save', 'alpha', 't', '{}', 'failed', 1, 0, 0, '2026-01-01 00:00:00')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO job_events (job_id, seq, attempt, at, kind, body)"
                " VALUES ('j1', 1, 1, '2026-01-01 00:00:00', 'state', '{}')"
            )
        )
    migrate(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, models.Base.metadata) == []
        assert context.get_current_revision() == REVISIONS[-1]
    engine.dispose()
    with open_catalog(url) as catalog:
        assert [job.job_id for job in queries.list_jobs(catalog)] == ["j1"]
        assert [event.seq for event in queries.list_job_events(catalog, "j1")] == [1]
