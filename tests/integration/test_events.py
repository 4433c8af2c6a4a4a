"""The way of an event: journal, sender, Redis stream, catalog."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from cli.sandbox import RedisServer
from engine.errors import TryAgainError
from tasks.app import make_app
from tasks.broker import EVENT_FIELD, find_reporting_hosts, open_redis, stream_name
from tasks.catalog import Catalog, models, open_catalog, queries
from tasks.config import Settings
from tasks.doorbell import ring_doorbells
from tasks.envelope import Envelope, new_nonce, parse_envelope
from tasks.events import apply_events
from tasks.host_event import EventKind, HostEvent
from tasks.journal import Journal
from tasks.sender import EventSender
from tasks.states import JobState
from tasks.wait import wait_jobs

pytestmark = pytest.mark.integration


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Give an empty catalog."""
    with open_catalog(f"sqlite:///{tmp_path}/c.sqlite") as opened:
        yield opened


@pytest.fixture
def journal(tmp_path: Path, host: str) -> Iterator[Journal]:
    """Give the host's journal."""
    with Journal(tmp_path / "journal.sqlite", host=host) as opened:
        yield opened


@pytest.fixture
def sender(journal: Journal, host: str, redis_server: RedisServer, redis: Redis) -> Iterator[EventSender]:
    """Give a sender that runs."""
    del redis  # The server has to run first.
    thread = EventSender(journal, open_redis(redis_server.url, client_name="sender"), host=host)
    thread.start()
    yield thread
    thread.stop(5.0)


def begin_job(catalog: Catalog, journal: Journal, host: str) -> str:
    """Make a row, and claim it on the host."""
    now = datetime.now(UTC).replace(microsecond=0)
    job_id = uuid4().hex
    with catalog.write() as session:
        session.add(
            models.Job(
                id=job_id,
                op="save",
                host=host,
                domain="d",
                target=job_id,
                params={},
                state="queued",
                created_at=now,
            )
        )
    journal.claim(
        Envelope(
            job_id=job_id, attempt=1, op="save", host=host, domain="d", params={}, issued_at=now,
            expires_at=now + timedelta(hours=1), nonce=new_nonce(),
        )
    )  # fmt: skip
    return job_id


def finish_job(journal: Journal, job_id: str) -> None:
    """Let the job run to its end."""
    journal.record_start(job_id, pid=1, start_ticks=1)
    journal.record_event(job_id, EventKind.PROGRESS, {"bytes": 1, "total": 2})
    journal.record_state(job_id, JobState.COMMITTING)
    journal.record_state(job_id, JobState.SUCCEEDED, reason=None, result={"domain": "d"})


def test_waiter_sees_the_states_as_they_come(
    catalog: Catalog, journal: Journal, host: str, redis: Redis, sender: EventSender
) -> None:
    """Each change once, the last one final; leaving early disturbs nothing."""
    assert sender.is_alive()
    job_id = begin_job(catalog, journal, host)
    views = wait_jobs(catalog, redis, [job_id, "nobody"], timeout_seconds=20, poll_seconds=0.02)
    assert next(views).state is JobState.QUEUED
    journal.record_start(job_id, pid=1, start_ticks=1)
    assert next(views).state is JobState.RUNNING
    views.close()
    journal.record_state(job_id, JobState.COMMITTING)
    journal.record_state(job_id, JobState.FAILED, reason="no space", error={"code": 21})

    last = list(wait_jobs(catalog, redis, [job_id], timeout_seconds=20, poll_seconds=0.02))[-1]

    assert (last.state, last.reason, last.error) == (JobState.FAILED, "no space", {"code": 21})


def test_waiting_ends_in_time(catalog: Catalog, journal: Journal, host: str, redis: Redis) -> None:
    """The job goes on; the caller may try again."""
    job_id = begin_job(catalog, journal, host)
    with pytest.raises(TryAgainError, match="1 of 1 jobs unfinished"):
        list(wait_jobs(catalog, redis, [job_id], timeout_seconds=0.05, poll_seconds=0.02))


def test_waiter_outlives_redis(  # noqa: PLR0917
    catalog: Catalog,
    journal: Journal,
    host: str,
    redis: Redis,
    redis_server: RedisServer,
    sender: EventSender,
) -> None:
    """Neither side notices more than a delay."""
    assert sender.is_alive()
    job_id = begin_job(catalog, journal, host)
    redis_server.kill()
    try:
        views = wait_jobs(catalog, redis, [job_id], timeout_seconds=20, poll_seconds=0.02)
        assert next(views).state is JobState.QUEUED
        finish_job(journal, job_id)
        with pytest.raises(RedisConnectionError):
            apply_events(catalog, redis, [host])
    finally:
        redis_server.start()
    assert list(views)[-1].state is JobState.SUCCEEDED


def test_events_of_many_jobs_are_applied_once_by_many_readers(  # noqa: PLR0917
    catalog: Catalog,
    journal: Journal,
    host: str,
    redis: Redis,
    redis_server: RedisServer,
    wait_until: Callable[..., Any],
) -> None:
    """More than one batch; two processes' worth of readers at the same time; then nothing is left."""
    jobs = [begin_job(catalog, journal, host) for _ in range(250)]
    for job_id in jobs:
        finish_job(journal, job_id)
    sender = EventSender(journal, open_redis(redis_server.url, client_name="sender"), host=host)
    sender.start()
    wait_until(lambda: not journal.list_unsent(1), what="an empty outbox")
    sender.stop(5.0)
    changed: list[int] = []

    def read() -> None:
        with open_redis(redis_server.url, client_name="reader") as mine:
            changed.append(apply_events(catalog, mine, [host]))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(changed) == 5 * len(jobs)
    assert {job.state for job in queries.find_jobs(catalog, jobs)} == {JobState.SUCCEEDED}
    assert apply_events(catalog, redis, [host]) == 0


def test_sending_again_what_was_sent_changes_nothing(
    catalog: Catalog, journal: Journal, host: str, redis: Redis
) -> None:
    """A sender that died between Redis and the journal says it all once more."""
    job_id = begin_job(catalog, journal, host)
    finish_job(journal, job_id)
    bodies = [entry.body for entry in journal.list_unsent(100)]
    for body in [*bodies, *reversed(bodies)]:
        redis.xadd(stream_name(host), {EVENT_FIELD: body})
    assert apply_events(catalog, redis, [host]) == len(bodies)
    with catalog.read() as session:
        position = session.get(models.StreamPosition, host)
        assert position is not None
        assert position.position == redis.xinfo_stream(stream_name(host))["last-generated-id"]
    assert len(queries.list_job_events(catalog, job_id)) == 4


def test_entries_that_make_no_sense_are_passed_over(
    catalog: Catalog, journal: Journal, host: str, redis: Redis
) -> None:
    """They do not stop what follows."""
    job_id = begin_job(catalog, journal, host)
    finish_job(journal, job_id)
    key = stream_name(host)
    redis.xadd(key, {"other": "field"})
    redis.xadd(key, {EVENT_FIELD: "no json"})
    bad = {"facts": {}, "domains": [{"uuid": 1}]}
    redis.xadd(
        key,
        {
            EVENT_FIELD: HostEvent(
                host=host, kind=EventKind.INVENTORY, at=datetime.now(UTC), body=bad
            ).to_json()
        },
    )
    for entry in journal.list_unsent(100):
        redis.xadd(key, {EVENT_FIELD: entry.body})
    apply_events(catalog, redis, [host])
    assert [job.state for job in queries.find_jobs(catalog, [job_id])] == [JobState.SUCCEEDED]
    assert queries.list_domains(catalog) == []


def test_hosts_that_speak_are_found(  # noqa: PLR0917
    catalog: Catalog,
    journal: Journal,
    host: str,
    redis: Redis,
    sender: EventSender,
    wait_until: Callable[..., Any],
) -> None:
    """A new host needs no entry anywhere; of inventories that wait, what was said at length survives."""
    del journal
    at = datetime.now(UTC)
    for number, domains in enumerate(([], None, None)):
        capabilities = {"v": number} if number == 1 else None
        body = {"facts": {"uri": f"u{number}"}, "domains": domains, "capabilities": capabilities}
        sender.publish_inventory(
            HostEvent(host=host, kind=EventKind.INVENTORY, at=at + timedelta(seconds=number), body=body)
        )
    wait_until(lambda: host in find_reporting_hosts(redis))

    def latest() -> bool:
        apply_events(catalog, redis)
        return [view.uri for view in queries.list_hosts(catalog) if view.name == host] == ["u2"]

    wait_until(latest)
    assert queries.find_capabilities(catalog, host) == {"v": 1}


def test_doorbell_holds_an_envelope_that_the_host_takes(
    catalog: Catalog, journal: Journal, host: str, redis: Redis, redis_server: RedisServer
) -> None:
    """Rung for again, it is a new envelope of the same job; finished jobs are passed over."""
    job_id = begin_job(catalog, journal, host)
    app = make_app(Settings(broker_url=redis_server.url))
    now = datetime.now(UTC)
    views = queries.find_jobs(catalog, [job_id])
    ring_doorbells(catalog, app, views, now=now)
    ring_doorbells(catalog, app, views, now=now)
    assert queries.find_jobs(catalog, [job_id])[0].rung_at == now
    assert redis.llen(f"host.{host}") == 2
    taken: list[Envelope] = []
    with app.connection_for_read() as connection:
        from kombu import Queue

        bound = Queue(f"host.{host}", routing_key=f"host.{host}")(connection.channel())
        while (message := bound.get(no_ack=True)) is not None:
            _args, kwargs, _options = message.payload
            taken.append(parse_envelope(kwargs["envelope"].encode(), host=host, now=now))
    app.close()
    assert [envelope.job_id for envelope in taken] == [job_id, job_id]
    assert taken[0].nonce != taken[1].nonce
