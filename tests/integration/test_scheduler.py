"""Schedulers as processes and in threads, on real databases, brokers and workers."""

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cli.sandbox import PostgresServer, RedisServer
from scheduler.metrics import CatalogCollector, make_registry
from scheduler.process import open_service
from scheduler.reconcile import Limits
from scheduler.reconciler import Reconciler
from scheduler.service import LEASE_NAME
from tasks.broker import queue_name
from tasks.catalog import Catalog, models, open_catalog, queries
from tasks.catalog.leases import find_lease, take_lease
from tasks.config import SchedulerSettings, Settings
from tasks.events import apply_events
from tasks.states import JobState

pytestmark = pytest.mark.integration

_ROOT = Path(__file__).resolve().parents[2]


def add_job(catalog: Catalog, host: str, **more: Any) -> str:
    """Add a queued save that nobody rang for."""
    job_id = uuid4().hex
    values: dict[str, Any] = {
        "op": "save", "domain": "web-1", "target": job_id, "params": {}, "state": "queued",
        "created_at": datetime.now(UTC) - timedelta(minutes=1),
    }  # fmt: skip
    with catalog.write() as session:
        session.add(models.Job(id=job_id, host=host, **(values | more)))
    return job_id


def state_of(catalog: Catalog, job_id: str) -> JobState:
    """Return where a job stands."""
    [job] = queries.find_jobs(catalog, [job_id])
    return job.state


def wait_known(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Let the catalog know the bench's host."""

    def is_known() -> bool:
        apply_events(bench.catalog, bench.redis)
        return any(host.name == bench.worker.host for host in queries.list_hosts(bench.catalog))

    wait_until(is_known)


@pytest.fixture
def reconciler(bench: Any) -> Reconciler:
    """Give a reconciler that is impatient."""
    second = timedelta(seconds=1)
    limits = Limits(ring_grace=second, silence=second, ask_again=second)
    return Reconciler(bench.catalog, bench.redis, bench.app, limits)


def reconcile_until(bench: Any, reconciler: Reconciler, wait_until: Callable[..., Any], job_id: str) -> Any:
    """Apply events and reconcile, as a leader does, until the job has ended."""

    def is_over() -> bool:
        apply_events(bench.catalog, bench.redis)
        reconciler.reconcile(None, now=datetime.now(UTC))
        return queries.find_jobs(bench.catalog, [job_id])[0].is_final

    wait_until(is_over)
    return queries.find_jobs(bench.catalog, [job_id])[0]


def test_job_that_nobody_rang_for_runs(bench: Any, reconciler: Reconciler, wait_until: Any) -> None:
    """Whoever submitted it died before the doorbell."""
    wait_known(bench, wait_until)
    job_id = add_job(bench.catalog, bench.worker.host)
    assert reconcile_until(bench, reconciler, wait_until, job_id).state is JobState.SUCCEEDED
    assert len(bench.worker.engine_starts()) == 1


def test_silent_job_is_asked_about_and_told_again(
    bench: Any, reconciler: Reconciler, wait_until: Any
) -> None:
    """All that its host said was lost with Redis, and the stream was there again before it noticed."""
    wait_known(bench, wait_until)
    job_id = add_job(bench.catalog, bench.worker.host)
    reconciler.reconcile(None, now=datetime.now(UTC))
    wait_until(lambda: bench.worker.metric("fleetsave_jobs_total", op="save", outcome="succeeded") == 1)
    stream = f"events.{bench.worker.host}"
    wait_until(lambda: any("succeeded" in entry["event"] for _, entry in bench.redis.xrange(stream)))
    bench.redis.xtrim(stream, maxlen=0, approximate=False)
    with bench.catalog.write() as session:
        job = session.get(models.Job, job_id)
        job.state, job.heard_at = "running", datetime.now(UTC) - timedelta(minutes=5)
    assert reconcile_until(bench, reconciler, wait_until, job_id).state is JobState.SUCCEEDED


def test_job_that_the_host_does_not_know_is_lost(bench: Any, reconciler: Reconciler, wait_until: Any) -> None:
    """Its journal is another's: the host says so, and the reason says what to do."""
    wait_known(bench, wait_until)
    job_id = add_job(bench.catalog, bench.worker.host, state="running")
    job = reconcile_until(bench, reconciler, wait_until, job_id)
    assert job.state is JobState.LOST
    assert job.reason.startswith(f"host {bench.worker.host} does not know the job any more")
    assert bench.worker.engine_starts() == []


def test_jobs_of_a_host_that_is_gone_are_given_up(bench: Any, wait_until: Any) -> None:
    """After the limit and not before."""
    wait_known(bench, wait_until)
    bench.worker.end(signal.SIGKILL)
    job_id = add_job(bench.catalog, bench.worker.host, state="running")
    reconciler = Reconciler(bench.catalog, bench.redis, bench.app, Limits())
    now = datetime.now(UTC)
    assert reconciler.reconcile(None, now=now + timedelta(hours=23)).lose == ()
    assert reconciler.reconcile(None, now=now + timedelta(hours=25)).lose
    assert state_of(bench.catalog, job_id) is JobState.LOST


def test_old_hosts_worker_gives_a_moved_job_back_and_drops_its_doorbell(
    bench: Any, reconciler: Reconciler, wait_until: Any
) -> None:
    """The doorbell that is rung after all finds the attempt disowned; the job has gone to the other host."""
    wait_known(bench, wait_until)
    uuid = str(uuid4())
    later = datetime.now(UTC) + timedelta(hours=1)
    with bench.catalog.write() as session:
        session.add(models.Host(name="elsewhere", seen_at=later, libvirt_up=True))
        session.flush()
        session.add(
            models.Domain(
                host="elsewhere", uuid=uuid, name="moved-1", state="running", memory_bytes=1, persistent=True,
                has_managed_save=False, tags=[], seen_at=later,
            )
        )  # fmt: skip
    job_id = add_job(bench.catalog, bench.worker.host, domain="moved-1", domain_uuid=uuid)
    [before] = queries.find_jobs(bench.catalog, [job_id])

    def has_moved() -> bool:
        apply_events(bench.catalog, bench.redis)
        reconciler.reconcile(None, now=datetime.now(UTC))
        return queries.find_jobs(bench.catalog, [job_id])[0].host == "elsewhere"

    wait_until(has_moved)
    from tasks.doorbell import ring_doorbells

    ring_doorbells(bench.catalog, bench.app, [before], now=datetime.now(UTC))
    wait_until(lambda: bench.worker.metric("fleetsave_doorbells_total", result="duplicate") == 1)
    assert bench.worker.engine_starts() == []
    assert bench.redis.llen(queue_name("elsewhere")) <= 1


class SchedulerProcess:
    """A scheduler that can be killed."""

    def __init__(self, folder: Path, name: str, catalog_url: str, broker_url: str) -> None:
        self.log = folder / f"{name}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "FLEETSAVE_BROKER_URL": broker_url,
            "FLEETSAVE_CATALOG_URL": catalog_url,
            "FLEETSAVE_SCHEDULER__NAME": name,
            "FLEETSAVE_SCHEDULER__METRICS_PORT": "0",
            "FLEETSAVE_SCHEDULER__PASS_SECONDS": "0.1",
            "FLEETSAVE_SCHEDULER__RECONCILE_SECONDS": "0.1",
            "FLEETSAVE_SCHEDULER__LEASE_SECONDS": "10",
        }
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "cli.main", "scheduler"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def close(self) -> None:
        """Kill it if it runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start_scheduler(
    tmp_path: Path, postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[tuple[str, Callable[[str], SchedulerProcess]]]:
    """Give the URL of a catalog on PostgreSQL, and a function that starts schedulers on it."""
    postgres_server.start()
    redis_server.start()
    url = postgres_server.create_database()
    started: list[SchedulerProcess] = []

    def start(name: str) -> SchedulerProcess:
        started.append(SchedulerProcess(tmp_path, name, url, redis_server.url))
        return started[-1]

    yield url, start
    for process in started:
        process.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_second_scheduler_takes_over(
    start_scheduler: tuple[str, Callable[[str], SchedulerProcess]], wait_until: Any, number: signal.Signals
) -> None:
    """One leads; killed, it is followed once its lease has run out; told to stop, at once, status 0."""
    url, start = start_scheduler
    with open_catalog(url) as catalog:

        def leader() -> str:
            lease = find_lease(catalog, LEASE_NAME)
            return lease.owner.partition(":")[0] if lease else ""

        first = start("first")
        wait_until(lambda: leader() == "first")
        start("second")
        one = add_job(catalog, "nowhere")
        wait_until(lambda: queries.find_jobs(catalog, [one])[0].rung_at)
        assert leader() == "first"
        status = first.end(number)
        assert status == (0 if number != signal.SIGKILL else -signal.SIGKILL), first.log.read_text()
        two = add_job(catalog, "nowhere")
        wait_until(lambda: leader() == "second", seconds=60)
        wait_until(lambda: queries.find_jobs(catalog, [two])[0].rung_at)
        lease = find_lease(catalog, LEASE_NAME)
        assert lease is not None
        assert lease.epoch >= 2


def test_leader_that_lost_its_lease_changes_nothing(bench: Any, reconciler: Reconciler) -> None:
    """It was away for longer than it thinks: the epoch tells."""
    now = datetime.now(UTC)
    old = take_lease(bench.catalog, LEASE_NAME, "a", now=now, duration=timedelta(seconds=1))
    take_lease(bench.catalog, LEASE_NAME, "b", now=now + timedelta(seconds=2), duration=timedelta(seconds=1))
    host = f"h{uuid4().hex[:8]}"
    job_id = add_job(bench.catalog, host)
    assert reconciler.reconcile(old, now=now).ring == (job_id,)
    assert queries.find_jobs(bench.catalog, [job_id])[0].rung_at is None
    assert bench.redis.llen(queue_name(host)) == 0


def test_service_runs_in_a_thread_and_outlives_its_database(
    postgres_server: PostgresServer, redis_server: RedisServer, wait_until: Any
) -> None:
    """It waits while the catalog is away, goes on afterwards, and serves metrics all the time."""
    postgres_server.start()
    redis_server.start()
    url = postgres_server.create_database()
    scheduler = SchedulerSettings(
        name="s", metrics_port=0, pass_seconds=0.05, reconcile_seconds=0.05, lease_seconds=2
    )
    settings = Settings(broker_url=redis_server.url, catalog_url=url, scheduler=scheduler)
    stop = threading.Event()
    with open_service(settings) as (service, _registry, port), open_catalog(url) as catalog:
        thread = threading.Thread(target=service.run, args=(stop,))
        thread.start()
        try:
            one = add_job(catalog, "nowhere")
            wait_until(lambda: queries.find_jobs(catalog, [one])[0].rung_at)
            # A turn may take longer than so short a lease; the next one takes it again.
            wait_until(lambda: scrape(port)["fleetsave_scheduler_leader", ()] == 1)
            postgres_server.kill()
            wait_until(lambda: scrape(port).get(("fleetsave_scheduler_leader", ())) == 0)
            assert ("fleetsave_jobs", (("state", "queued"),)) not in scrape(port)
            postgres_server.start()
            two = add_job(catalog, "nowhere")
            wait_until(lambda: queries.find_jobs(catalog, [two])[0].rung_at)
            assert scrape(port)["fleetsave_jobs", (("state", "queued"),)] == 2
        finally:
            postgres_server.start()
            stop.set()
            thread.join(20)
        assert not thread.is_alive()
        lease = find_lease(catalog, LEASE_NAME)
        assert lease is not None
        assert lease.expires_at <= datetime.now(UTC)


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of a scheduler's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_are_the_catalogs(tmp_path: Path) -> None:
    """Every state, every host; a restart resets nothing."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with open_catalog(f"sqlite:///{tmp_path}/c.sqlite") as catalog:
        with catalog.write() as session:
            session.add(models.Host(name="up", seen_at=now - timedelta(seconds=10)))
            session.add(models.Host(name="down", seen_at=now - timedelta(hours=1)))
        for minutes in (5, 3):
            add_job(catalog, "down", created_at=now - timedelta(minutes=minutes))
        add_job(catalog, "up", state="failed")
        collector = CatalogCollector(
            catalog, is_leader=lambda: True, host_down=timedelta(minutes=3), now=lambda: now
        )
        registry = make_registry(collector)
        value = registry.get_sample_value
        assert value("fleetsave_scheduler_leader") == 1
        found = {state: value("fleetsave_jobs", {"state": str(state)}) for state in JobState}
        assert found == dict.fromkeys(JobState, 0.0) | {JobState.QUEUED: 2.0, JobState.FAILED: 1.0}
        assert value("fleetsave_host_up", {"host": "up"}) == 1
        assert value("fleetsave_host_up", {"host": "down"}) == 0
        assert value("fleetsave_oldest_queued_seconds", {"host": "down"}) == 300
        assert value("fleetsave_oldest_queued_seconds", {"host": "up"}) == 0
