"""Let one of many lead: a lease in the catalog, with a number that grows whenever it changes hands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from tasks.catalog import models
from tasks.catalog.connection import Catalog
from tasks.catalog.upsert import insert_missing


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A lease that somebody holds."""

    name: str
    owner: str
    epoch: int
    #: By the holder's clock; a clock that goes wrong costs a change of hands, the epoch keeps order.
    expires_at: datetime


def take_lease(
    catalog: Catalog, name: str, owner: str, *, now: datetime, duration: timedelta
) -> LeaseView | None:
    """Take, or keep, the lease; None: somebody else holds it.

    Args:
        catalog: the catalog.
        name: of the lease.
        owner: who wants it; no two processes have the same.
        now: clock, aware.
        duration: how long it is good, unless it is taken again before.
    """
    with catalog.write() as session:
        insert_missing(session, models.Lease, name=name, owner="", epoch=0, expires_at=now)
        row = session.get(models.Lease, name, with_for_update=True)
        assert row is not None
        if row.owner != owner:
            if row.expires_at > now:
                return None
            row.owner, row.epoch = owner, row.epoch + 1
        elif row.expires_at <= now:
            # It was nobody's meanwhile; what was begun under the old number has to stop.
            row.epoch += 1
        row.expires_at = now + duration
        return LeaseView(name=name, owner=owner, epoch=row.epoch, expires_at=row.expires_at)


def release_lease(catalog: Catalog, lease: LeaseView, *, now: datetime) -> None:
    """Let the next one take it at once; nothing if it has changed hands already."""
    with catalog.write() as session:
        if holds_lease(session, lease):
            row = session.get(models.Lease, lease.name)
            assert row is not None
            row.expires_at = min(row.expires_at, now)


def holds_lease(session: Session, lease: LeaseView) -> bool:
    """Tell whether the lease has not changed hands, and keep it so until the transaction ends."""
    query = select(models.Lease).where(models.Lease.name == lease.name).with_for_update()
    row = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    return row is not None and (row.owner, row.epoch) == (lease.owner, lease.epoch)


def find_lease(catalog: Catalog, name: str) -> LeaseView | None:
    """Return the lease as it was last taken, expired or not."""
    with catalog.read() as session:
        row = session.get(models.Lease, name)
        if row is None:
            return None
        return LeaseView(name=name, owner=row.owner, epoch=row.epoch, expires_at=row.expires_at)
