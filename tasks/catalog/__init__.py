"""Remember every host, domain, job and restore point of the fleet, in SQLite or PostgreSQL."""

from tasks.catalog.connection import Catalog, open_catalog
from tasks.catalog.migrate import migrate
from tasks.catalog.views import (
    DomainView,
    EventView,
    HostView,
    JobView,
    RestorePointView,
    SubmissionView,
)

__all__ = [
    "Catalog",
    "DomainView",
    "EventView",
    "HostView",
    "JobView",
    "RestorePointView",
    "SubmissionView",
    "migrate",
    "open_catalog",
]
