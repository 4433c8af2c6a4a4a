"""The transport that takes doorbells, on a real Redis."""

from collections.abc import Iterator

import pytest
from kombu import Connection, Consumer, Queue
from redis import Redis

from cli.sandbox import RedisServer
from tasks.app import make_app
from tasks.config import HostSettings, Settings

pytestmark = pytest.mark.integration


@pytest.fixture
def connection(redis: Redis, redis_server: RedisServer, host: str) -> Iterator[Connection]:
    """Give a worker's connection, and one doorbell in the queue."""
    settings = Settings(broker_url=redis_server.url, host=HostSettings(name=host))
    ringing, answering = make_app(settings), make_app(settings, answers=True)
    ringing.send_task("fleetsave.run", queue=Queue(f"host.{host}", routing_key=f"host.{host}"))
    assert redis.llen(f"host.{host}") == 1
    with answering.connection_for_read() as opened:
        yield opened
    ringing.close()
    answering.close()


def left_behind(redis: Redis, host: str) -> list[str]:
    """Return the keys that hold messages."""
    return [key for key in redis.scan_iter() if "unacked" in key or key == f"host.{host}"]


def test_doorbell_is_gone_once_it_is_popped(redis: Redis, connection: Connection, host: str) -> None:
    """Kept under no other key, and not put back when the connection ends without an answer."""
    heard: list[object] = []
    channel = connection.channel()
    consumer = Consumer(
        channel, [Queue(f"host.{host}", routing_key=f"host.{host}")],
        on_message=heard.append, accept=["json"],
    )  # fmt: skip
    consumer.consume()
    connection.drain_events(timeout=5)
    assert len(heard) == 1
    channel.close()
    connection.close()
    assert left_behind(redis, host) == []


def test_doorbell_that_nobody_waits_for_any_more_is_dropped(
    redis: Redis, connection: Connection, host: str
) -> None:
    """It comes while the worker ends: a host may not put it back, and does not try."""
    channel = connection.channel()
    queue = Queue(f"host.{host}", routing_key=f"host.{host}")
    consumer = Consumer(channel, [queue], accept=["json"])
    consumer.consume()
    channel.connection._callbacks.clear()
    connection.drain_events(timeout=5)
    assert left_behind(redis, host) == []
