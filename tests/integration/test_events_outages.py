"""What becomes of events when Redis forgets, restarts empty, or the catalog is away."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from cli.sandbox import PostgresServer, RedisServer, Sandbox
from tasks.broker import EVENT_FIELD, open_redis, stream_name
from tasks.catalog import Catalog, models, open_catalog, queries
from tasks.envelope import Envelope, new_nonce
from tasks.errors import BrokerError
from tasks.events import apply_events
from tasks.host_event import EventKind, HostEvent, parse_event
from tasks.journal import Journal
from tasks.sender import EventSender
from tasks.states import JobState

pytestmark = pytest.mark.integration

HOST = "alpha"


@pytest.fixture(scope="module")
def forgetful() -> Iterator[RedisServer]:
    """Give a Redis that keeps nothing on disk."""
    with Sandbox(()) as opened, opened.redis({"appendonly": "no"}) as server:
        yield server


@pytest.fixture
def redis(forgetful: RedisServer) -> Iterator[Redis]:
    """Give a client of an empty server."""
    forgetful.start()
    with open_redis(forgetful.url, client_name="test") as client:
        client.flushall()
        yield client


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Give an empty catalog."""
    with open_catalog(f"sqlite:///{tmp_path}/c.sqlite") as opened:
        yield opened


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Give the host's journal."""
    with Journal(tmp_path / "journal.sqlite", host=HOST) as opened:
        yield opened


@pytest.fixture
def start_sender(journal: Journal, forgetful: RedisServer) -> Iterator[Callable[[], EventSender]]:
    """Give a function that starts a sender, as a worker does at its start."""
    started: list[EventSender] = []

    def start() -> EventSender:
        sender = EventSender(journal, open_redis(forgetful.url, client_name="sender"), host=HOST)
        sender.start()
        started.append(sender)
        return sender

    yield start
    for sender in started:
        if sender.is_alive():
            sender.stop(5.0)


def begin_job(catalog: Catalog, journal: Journal) -> str:
    """Make a row and let the host begin."""
    now = datetime.now(UTC).replace(microsecond=0)
    job_id = uuid4().hex
    with catalog.write() as session:
        session.add(
            models.Job(
                id=job_id, op="save", host=HOST, domain="d", target=job_id, params={}, state="queued",
                created_at=now,
            )
        )  # fmt: skip
    envelope = Envelope(
        job_id=job_id, attempt=1, op="save", host=HOST, domain="d", params={}, issued_at=now,
        expires_at=now + timedelta(hours=1), nonce=new_nonce(),
    )  # fmt: skip
    assert journal.claim(envelope)
    journal.record_start(job_id, pid=1, start_ticks=1)
    journal.record_event(job_id, EventKind.STEP, {"step": "stream"})
    return job_id


def finish_job(journal: Journal, job_id: str) -> None:
    """Let the job run to its end."""
    journal.record_state(job_id, JobState.COMMITTING)
    journal.record_state(job_id, JobState.SUCCEEDED, reason=None, result={"domain": "d"})


def story(catalog: Catalog, job_id: str) -> list[int]:
    """Return the numbers of the events that are known."""
    return [event.seq for event in queries.list_job_events(catalog, job_id)]


def is_over(catalog: Catalog, redis: Redis, job_id: str) -> bool:
    """Apply what there is; tell whether the job has come to its end with all that was said."""
    apply_events(catalog, redis)
    [job] = queries.find_jobs(catalog, [job_id])
    return job.state is JobState.SUCCEEDED and story(catalog, job_id) == [1, 2, 3, 4, 5]


def test_events_that_redis_forgot_before_they_were_applied_are_sent_again(
    catalog: Catalog, journal: Journal, redis: Redis, start_sender: Callable[[], EventSender], wait_until: Any
) -> None:
    """FLUSHALL between send and apply: at the next word the host notices that the stream is gone."""
    job_id = begin_job(catalog, journal)
    start_sender()
    wait_until(lambda: not journal.list_unsent(1))
    redis.flushall()
    assert apply_events(catalog, redis) == 0
    finish_job(journal, job_id)
    wait_until(lambda: is_over(catalog, redis, job_id))


def test_last_event_that_redis_forgot_comes_with_the_next_inventory(
    catalog: Catalog, journal: Journal, redis: Redis, start_sender: Callable[[], EventSender], wait_until: Any
) -> None:
    """Nothing more is said about the job itself; the domains, too, come again."""
    job_id = begin_job(catalog, journal)
    finish_job(journal, job_id)
    sender = start_sender()
    domain = {
        "uuid": "u", "name": "d", "state": "running", "memory_bytes": 1, "persistent": True,
        "has_managed_save": False, "tags": [],
    }  # fmt: skip
    for domains in ([domain], None):
        body = {"facts": {"libvirt_up": True}, "domains": domains}
        event = HostEvent(host=HOST, kind=EventKind.INVENTORY, at=datetime.now(UTC), body=body)
        sender.publish_inventory(event)
        wait_until(lambda: not journal.list_unsent(1) and sender._inventory is None)
        redis.flushall()
    sender.publish_inventory(event)
    wait_until(lambda: is_over(catalog, redis, job_id) and queries.list_domains(catalog))


def test_redis_restarted_empty_costs_nothing(  # noqa: PLR0917
    catalog: Catalog,
    journal: Journal,
    redis: Redis,
    forgetful: RedisServer,
    start_sender: Callable[[], EventSender],
    wait_until: Any,
) -> None:
    """Killed without append-only file; what was applied, sent and unsent before comes to one story."""
    applied, job_id = begin_job(catalog, journal), begin_job(catalog, journal)
    start_sender()
    wait_until(lambda: not journal.list_unsent(1))
    apply_events(catalog, redis)
    forgetful.kill()
    finish_job(journal, job_id)
    forgetful.start()
    wait_until(lambda: is_over(catalog, redis, job_id))
    finish_job(journal, applied)
    wait_until(lambda: is_over(catalog, redis, applied))


def test_stream_that_begins_anew_with_smaller_ids_is_read(
    catalog: Catalog, journal: Journal, redis: Redis
) -> None:
    """Redis's clock was set back meanwhile: its ids come from it."""
    job_id = begin_job(catalog, journal)
    finish_job(journal, job_id)
    bodies = [entry.body for entry in journal.list_unsent(10)]
    later = int(time.time() * 1000) + 3_600_000
    redis.xadd(stream_name(HOST), {EVENT_FIELD: bodies[0]}, id=f"{later}-0")
    apply_events(catalog, redis)
    assert story(catalog, job_id) == [1]
    redis.flushall()
    for body in bodies[1:]:
        redis.xadd(stream_name(HOST), {EVENT_FIELD: body})
    assert is_over(catalog, redis, job_id)
    # It has passed the old position by now and is not read from the beginning again and again.
    assert apply_events(catalog, redis) == 0
    with catalog.read() as session:
        position = session.get(models.StreamPosition, HOST)
        assert position is not None
        assert position.position == redis.xinfo_stream(stream_name(HOST))["last-generated-id"]


def test_stream_that_lost_its_oldest_entries_keeps_its_position(
    catalog: Catalog, journal: Journal, redis: Redis
) -> None:
    """Trimmed it is still the same stream."""
    job_id = begin_job(catalog, journal)
    finish_job(journal, job_id)
    for entry in journal.list_unsent(10):
        redis.xadd(stream_name(HOST), {EVENT_FIELD: entry.body})
    assert is_over(catalog, redis, job_id)
    redis.xadd(stream_name(HOST), {EVENT_FIELD: "no event"})
    redis.xtrim(stream_name(HOST), maxlen=1, approximate=False)
    with catalog.read() as session:
        before = session.get(models.StreamPosition, HOST)
    apply_events(catalog, redis)
    with catalog.read() as session:
        after = session.get(models.StreamPosition, HOST)
    assert before is not None
    assert after is not None
    assert before.position < after.position


def test_worker_restarted_during_the_outage_says_it_all(
    catalog: Catalog, journal: Journal, redis: Redis, start_sender: Callable[[], EventSender], wait_until: Any
) -> None:
    """A new sender knows nothing of the old stream; it finds none and tells all."""
    job_id = begin_job(catalog, journal)
    first = start_sender()
    wait_until(lambda: not journal.list_unsent(1))
    first.stop(5.0)
    redis.flushall()
    finish_job(journal, job_id)
    start_sender()
    wait_until(lambda: is_over(catalog, redis, job_id))


def test_host_cut_off_for_long_catches_up(
    catalog: Catalog, journal: Journal, redis: Redis, start_sender: Callable[[], EventSender], wait_until: Any
) -> None:
    """Everything waits in the journal, more than one batch of it."""
    jobs = [begin_job(catalog, journal) for _ in range(300)]
    for job_id in jobs:
        finish_job(journal, job_id)
    assert len(journal.list_unsent(2000)) == 5 * len(jobs)
    start_sender()
    wait_until(lambda: not journal.list_unsent(1), seconds=60)
    apply_events(catalog, redis)
    assert {job.state for job in queries.find_jobs(catalog, jobs)} == {JobState.SUCCEEDED}


def test_events_that_redis_lost_in_the_middle_are_missed(
    catalog: Catalog, journal: Journal, redis: Redis
) -> None:
    """The stream is there, the host notices nothing: the catalog does, and the host tells again."""
    job_id = begin_job(catalog, journal)
    finish_job(journal, job_id)
    entries = journal.list_unsent(10)
    for entry in entries:
        if parse_event(entry.body).seq != 2:
            redis.xadd(stream_name(HOST), {EVENT_FIELD: entry.body})
    journal.mark_sent([entry.number for entry in entries])
    apply_events(catalog, redis)
    with catalog.read() as session:
        job = session.get(models.Job, job_id)
        assert job is not None
        assert (job.state, job.gaps) == ("succeeded", 1)
    assert journal.tell_again(job_id, 1)
    for entry in journal.list_unsent(10):
        redis.xadd(stream_name(HOST), {EVENT_FIELD: entry.body})
    assert is_over(catalog, redis, job_id)
    with catalog.read() as session:
        job = session.get(models.Job, job_id)
        assert job is not None
        assert job.gaps == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_events_wait_while_the_catalog_is_away(
    postgres_server: PostgresServer, journal: Journal, redis: Redis, end: str
) -> None:
    """PostgreSQL stopped, or crashed, between two readings: said so, and nothing is missed afterwards."""
    postgres_server.start()
    with open_catalog(postgres_server.create_database()) as catalog:
        job_id = begin_job(catalog, journal)
        for entry in journal.list_unsent(10):
            redis.xadd(stream_name(HOST), {EVENT_FIELD: entry.body})
        apply_events(catalog, redis)
        getattr(postgres_server, end)()
        try:
            journal.mark_sent([entry.number for entry in journal.list_unsent(10)])
            finish_job(journal, job_id)
            for entry in journal.list_unsent(10):
                redis.xadd(stream_name(HOST), {EVENT_FIELD: entry.body})
            with pytest.raises(BrokerError, match="catalog") as caught:
                apply_events(catalog, redis)
            assert caught.value.exit_code == 40
        finally:
            postgres_server.start()
        assert is_over(catalog, redis, job_id)
