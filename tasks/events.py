"""Read what the hosts say from their streams and bring the catalog up to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog
from redis import Redis
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from tasks.broker import EVENT_FIELD, find_reporting_hosts, stream_name
from tasks.catalog import Catalog, models
from tasks.catalog.apply import apply_event
from tasks.host_event import parse_event

_START: Final = "0-0"
#: Entries of one stream applied in one transaction.
_BATCH_COUNT: Final = 500
#: Batches in one call, so that it ends however fast the hosts talk.
_BATCHES_MAX: Final = 200

_log: Final = structlog.get_logger(__name__)


def apply_events(catalog: Catalog, redis: Redis, hosts: Sequence[str] | None = None) -> int:
    """Apply to the catalog what the hosts have said since the last call; return how many events changed it.

    May run in several processes at once: every event is applied once, and the position is stored in the
    same transaction.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        hosts: whose; None: every host that has a stream, new ones included.

    Raises:
        redis.RedisError: Redis cannot be reached; nothing is lost.
        BrokerError: the catalog cannot be reached.
    """
    names = find_reporting_hosts(redis) if hosts is None else hosts
    changed = 0
    for _ in range(_BATCHES_MAX):
        positions = _read_positions(catalog, names)
        if not positions:
            break
        streams: dict[Any, Any] = {stream_name(host): position for host, position in positions.items()}
        answer: Any = redis.xread(streams, count=_BATCH_COUNT)
        pairs = answer.items() if isinstance(answer, dict) else answer
        batches = {str(key): entries for key, entries in pairs}
        for host in positions:
            if entries := batches.get(stream_name(host)):
                changed += _apply_batch(catalog, host, entries)
        if not batches:
            break
    return changed


def _read_positions(catalog: Catalog, hosts: Sequence[str]) -> dict[str, str]:
    """Return how far each host's stream has been applied."""
    with catalog.read() as session:
        rows = {host: session.get(models.StreamPosition, host) for host in hosts}
        return {host: row.position if row else _START for host, row in rows.items()}


def _apply_batch(catalog: Catalog, host: str, entries: list[tuple[str, dict[str, str]]]) -> int:
    """Apply entries of one host's stream and move its position, in one transaction."""
    changed = 0
    with catalog.write() as session:
        for position, fields in entries:
            changed += _apply_entry(session, host, position, fields)
        row = session.get(models.StreamPosition, host, with_for_update=True)
        if row is None:
            session.add(models.StreamPosition(host=host, position=entries[-1][0]))
        else:
            row.position = max(row.position, entries[-1][0], key=_order)
    return changed


def _apply_entry(session: Session, host: str, position: str, fields: dict[str, str]) -> bool:
    """Apply one entry; one that makes no sense is passed over, or it would stop all that follow."""
    try:
        event = parse_event(fields.get(EVENT_FIELD, ""))
        with session.begin_nested():
            return apply_event(session, host, event)
    except (ValueError, TypeError, KeyError, DataError, IntegrityError) as error:
        _log.warning("event passed over", host=host, position=position, error=str(error))
        return False


def _order(position: str) -> tuple[int, int]:
    """Return what stream ids sort by: milliseconds, then a number."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)
