"""Read what the hosts say from their streams and bring the catalog up to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from redis import Redis
from sqlalchemy import delete
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from tasks.broker import EVENT_FIELD, find_reporting_hosts, stream_name
from tasks.catalog import Catalog, models
from tasks.catalog.apply import apply_event
from tasks.catalog.upsert import insert_missing
from tasks.host_event import parse_event

_START: Final = "0-0"
#: Entries of one stream applied in one transaction.
_BATCH_COUNT: Final = 500
#: Batches in one call, so that it ends however fast the hosts talk.
_BATCHES_MAX: Final = 200

_log: Final = structlog.get_logger(__name__)


def apply_events(
    catalog: Catalog,
    redis: Redis,
    hosts: Sequence[str] | None = None,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Apply to the catalog what the hosts have said since the last call; return how many events changed it.

    May run in several processes at once: every event is applied once, and the position is stored in the
    same transaction.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        hosts: whose; None: every host that has a stream, new ones included.
        now: clock.

    Raises:
        redis.RedisError: Redis cannot be reached; nothing is lost.
        BrokerError: the catalog cannot be reached.
    """
    names = find_reporting_hosts(redis) if hosts is None else hosts
    _forget_lost_positions(catalog, redis, names)
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
                changed += _apply_batch(catalog, host, entries, now())
        if not batches:
            break
    return changed


def _read_positions(catalog: Catalog, hosts: Sequence[str]) -> dict[str, str]:
    """Return how far each host's stream has been applied."""
    with catalog.read() as session:
        rows = {host: session.get(models.StreamPosition, host) for host in hosts}
        return {host: row.position if row else _START for host, row in rows.items()}


def _forget_lost_positions(catalog: Catalog, redis: Redis, hosts: Sequence[str]) -> None:
    """Read a stream from its beginning again that has begun anew, as after FLUSHALL.

    Its ids come from Redis's clock, which may have been set back: the old position would hide new entries. A
    stream loses its oldest entries only; so where there are older ones than the position but not the one at
    the position itself, it is another stream.
    """
    positions = {host: at for host, at in _read_positions(catalog, hosts).items() if at != _START}
    with redis.pipeline(transaction=False) as pipeline:
        for host, position in positions.items():
            pipeline.xrange(stream_name(host), count=1)
            pipeline.xrange(stream_name(host), min=position, max=position)
        answers = pipeline.execute()
    for (host, position), first, at in zip(positions.items(), answers[::2], answers[1::2], strict=True):
        if first and not at and _order(first[0][0]) < _order(position):
            _log.warning("event stream has begun anew", host=host, position=position, first=first[0][0])
            with catalog.write() as session:
                session.execute(
                    delete(models.StreamPosition).where(
                        models.StreamPosition.host == host, models.StreamPosition.position == position
                    )
                )


def _apply_batch(
    catalog: Catalog, host: str, entries: list[tuple[str, dict[str, str]]], now: datetime
) -> int:
    """Apply entries of one host's stream and move its position, in one transaction."""
    changed = 0
    with catalog.write() as session:
        # Before all else: who reads the same stream at the same time waits here.
        insert_missing(session, models.StreamPosition, host=host, position=_START)
        row = session.get(models.StreamPosition, host, with_for_update=True)
        assert row is not None
        for position, fields in entries:
            changed += _apply_entry(session, host, position, fields, now)
        row.position = max(row.position, entries[-1][0], key=_order)
    return changed


def _apply_entry(session: Session, host: str, position: str, fields: dict[str, str], now: datetime) -> bool:
    """Apply one entry; one that makes no sense is passed over, or it would stop all that follow."""
    try:
        event = parse_event(fields.get(EVENT_FIELD, ""))
        with session.begin_nested():
            return apply_event(session, host, event, now=now)
    except (ValueError, TypeError, KeyError, DataError, IntegrityError) as error:
        _log.warning("event passed over", host=host, position=position, error=str(error))
        return False


def _order(position: str) -> tuple[int, int]:
    """Return what stream ids sort by: milliseconds, then a number."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)
