"""Have a host finish what it runs and take no more jobs, until it is told to take them again."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import or_, select

from tasks.broker import drain_key
from tasks.catalog import Catalog, HostView, models
from tasks.errors import BrokerError, UsageError
from tasks.host_flags import DRAIN, TAKE

_HINT: Final = "start Redis, then say it again"


def drain_host(catalog: Catalog, redis: Redis, host: str, *, drain: bool, now: datetime) -> HostView:
    """Tell a host to take no more jobs, or to take them again; jobs for it stay queued meanwhile.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        host: which.
        drain: whether to take no more.
        now: aware.

    Raises:
        UsageError: no such host ever reported.
        BrokerError: Redis does not answer: the wish stands in the catalog, the host does not know yet, and
            `repeat_drains` tells it; or the catalog cannot be reached.
    """
    with catalog.write() as session:
        row = session.get(models.Host, host, with_for_update=True)
        if row is None:
            raise UsageError(f"host {host}", "it has never reported", "", "fleetsave hosts list shows them")
        row.drain_requested_at = (row.drain_requested_at or now) if drain else None
        view = HostView.of(row)
    try:
        redis.set(drain_key(host), DRAIN if drain else TAKE)
    except RedisError as error:
        found = f"{str(error) or type(error).__name__}: {host} is marked and does not know yet"
        raise BrokerError("broker", found, "a Redis that answers", _HINT) from error
    return view


def repeat_drains(catalog: Catalog, redis: Redis) -> int:
    """Tell hosts again what was wished of them, for a Redis that lost it; return how many were told.

    Raises:
        redis.RedisError: Redis does not answer.
        BrokerError: the catalog cannot be reached.
    """
    host = models.Host
    with catalog.read() as session:
        query = select(host).where(or_(host.drain_requested_at.is_not(None), host.draining.is_(True)))
        hosts = [HostView.of(row) for row in session.scalars(query)]
    for one in hosts:
        redis.set(drain_key(one.name), TAKE if one.drain_requested_at is None else DRAIN)
    return len(hosts)
