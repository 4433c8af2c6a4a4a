"""Change the catalog's tables from version to version, with Alembic."""
