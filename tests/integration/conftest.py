"""Give real worker processes whose engine is a stand-in, and a catalog that listens to them."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Queue
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from cli.sandbox import RedisServer
from tasks.app import RUN_TASK, make_app
from tasks.broker import open_redis, queue_name
from tasks.catalog import Catalog, JobView, open_catalog, queries
from tasks.config import Settings
from tasks.envelope import Envelope, new_nonce
from tasks.events import apply_events
from tasks.keys import SigningKey, generate_key, write_key
from tasks.redis_acl import RedisUser, host_user, new_password
from tasks.submit import DomainRef, submit
from tasks.wait import wait_jobs

_ROOT = Path(__file__).resolve().parents[2]
_WORKER = _ROOT / "tests" / "data" / "stand_in_worker.py"
_DEADLINE_SECONDS = 20.0


def wait_until(condition: Callable[[], object], *, seconds: float = _DEADLINE_SECONDS, what: str = "") -> Any:
    """Return what the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what or condition}"
        time.sleep(0.02)
    return value


class WorkerProcess:
    """A worker that can be killed and started again on the same folders."""

    def __init__(self, host: str, folder: Path, broker_url: str) -> None:
        self.host = host
        self.folder = folder
        self.runtime_dir = folder / "run"
        self.broker_url = broker_url
        #: Settings that say whom it trusts and how it proves itself.
        self.access: dict[str, str] = {"FLEETSAVE_TRUST__INSECURE": "1"}
        #: What is run: the worker with the engine that stands in.
        self.program: Sequence[str] = (str(_WORKER),)
        self._log = folder / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.metrics_port = 0
        #: Variables of its environment on top of ours; they hold from the next start.
        self.settings: dict[str, str] = {}
        self._log_offset = 0

    def start(self, *, is_awaited: bool = True) -> None:
        """Start and wait until it consumes."""
        self._log_offset = self.log_size() if self._log.exists() else 0
        environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "FLEETSAVE_BROKER_URL": self.broker_url,
            "FLEETSAVE_HOST__NAME": self.host,
            **self.access,
            # Whatever has to be looked at on a hypervisor is looked at on libvirt's own stand-in.
            "FLEETSAVE_HOST__URI": "test:///default",
            "FLEETSAVE_HOST__STATE_DIR": str(self.folder / "state"),
            "FLEETSAVE_HOST__RUNTIME_DIR": str(self.runtime_dir),
            "FLEETSAVE_HOST__STORE": str(self.folder / "store"),
            "FLEETSAVE_HOST__METRICS_PORT": "0",
            "FLEETSAVE_HOST__INVENTORY_SECONDS": "0.5",
            **self.settings,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.program], stdout=log, stderr=log, env=environment, cwd=self.folder
            )
        if is_awaited:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it consumes."""
        self.metrics_port = wait_until(self._ready, what="worker ready")["metrics_port"]

    def restart(self, **settings: object) -> None:
        """End it in order and start it with other settings of the [host] table."""
        self.end(signal.SIGTERM)
        self.settings = {f"FLEETSAVE_HOST__{key.upper()}": json.dumps(v) for key, v in settings.items()}
        self.start()

    def log_lines(self, offset: int = 0) -> list[dict[str, Any]]:
        """Return what it has logged."""
        return [json.loads(line) for line in self.log_text(offset).splitlines() if line.startswith("{")]

    def log_size(self) -> int:
        """Return how many bytes it has logged."""
        return self._log.stat().st_size

    def log_text(self, offset: int = 0) -> str:
        """Return everything it wrote, from a byte on."""
        return self._log.read_bytes()[offset:].decode()

    def end(self, number: signal.Signals | None, *, seconds: float = _DEADLINE_SECONDS) -> int:
        """Send a signal, if one is given, and return the exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        if number is not None:
            process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def signal(self, number: signal.Signals) -> None:
        """Send a signal and do not wait."""
        assert self._process is not None
        self._process.send_signal(number)

    def close(self) -> None:
        """Kill it if it runs."""
        (self.runtime_dir / "go").touch()
        if self._process is not None:
            self.end(signal.SIGKILL)

    def say_go(self) -> None:
        """Let engines that wait go on."""
        (self.runtime_dir / "go").touch()

    def engine_starts(self) -> list[tuple[str, int]]:
        """Return job id and pid of each engine that was started."""
        try:
            lines = (self.runtime_dir / "starts").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(line.split()[0], int(line.split()[1])) for line in lines if " " in line]

    def metric(self, name: str, **labels: str) -> float | None:
        """Return one number of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples)
        return next((s.value for s in samples if s.name == name and s.labels == labels), None)

    def _ready(self) -> dict[str, Any] | None:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-4000:]
        return next(
            (line for line in self.log_lines(self._log_offset) if line.get("event") == "worker ready"), None
        )


@dataclass
class Bench:
    """One host's worker and the control side that talks to it."""

    worker: WorkerProcess
    app: Celery
    catalog: Catalog
    redis: Redis
    #: Of the control side; the worker trusts it.
    key: SigningKey

    def ring(self, envelope: object, signature: object = None) -> None:
        """Send a doorbell past `submit`, signed if it is an envelope."""
        if isinstance(envelope, Envelope):
            document = envelope.to_bytes()
            envelope, signature = document.decode(), self.key.sign(document)
        name = queue_name(self.worker.host)
        kwargs = {"envelope": envelope, "signature": signature}
        self.app.send_task(RUN_TASK, kwargs=kwargs, queue=Queue(name, routing_key=name))

    def submit(self, domain: str | None, op: str = "save", **params: Any) -> JobView:
        """Submit a job for this host."""
        ref = DomainRef(domain, self.worker.host)
        return submit(self.catalog, self.app, op=op, domains=[ref], params=params)[0]

    def look(self, job: JobView) -> JobView:
        """Return the job as the catalog knows it once it has heard all that was said."""
        apply_events(self.catalog, self.redis, [self.worker.host])
        return queries.find_jobs(self.catalog, [job.job_id])[0]

    def wait_heard(self, *jobs: JobView) -> None:
        """Wait until the jobs wait on the host itself; what only left its queue may not be journaled yet."""
        ids = {job.job_id for job in jobs}

        def waiting() -> set[str]:
            with closing(sqlite3.connect(self.worker.folder / "state" / "journal.sqlite")) as journal:
                return {job_id for (job_id,) in journal.execute("SELECT job_id FROM waiting")}

        wait_until(lambda: ids <= waiting(), what="jobs that wait in the journal")

    def end_of(self, job: JobView) -> JobView:
        """Wait for the end of a job and return it."""
        return list(wait_jobs(self.catalog, self.redis, [job.job_id], timeout_seconds=20, app=self.app))[-1]

    def started(self) -> list[str]:
        """Return the ids of the jobs whose engines were started, in that order."""
        return [job_id for job_id, _ in self.worker.engine_starts()]

    def envelope(self, domain: str = "web-1", **changes: Any) -> Envelope:
        """Return a save for this host."""
        now = datetime.now(UTC).replace(microsecond=0)
        values: dict[str, Any] = {
            "job_id": uuid4().hex,
            "attempt": 1,
            "op": "save",
            "host": self.worker.host,
            "domain": domain,
            "params": {},
            "issued_at": now,
            "expires_at": now + timedelta(hours=1),
            "nonce": new_nonce(),
            "key_id": self.key.key_id,
        }
        return Envelope(**(values | changes))


@pytest.fixture
def host() -> str:
    """Give a host name that no other test uses."""
    return f"h{uuid4().hex[:8]}"


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """Give a client of a running server."""
    redis_server.start()
    with open_redis(redis_server.url, client_name="test") as client:
        yield client


@pytest.fixture
def bench(tmp_path: Path, redis_server: RedisServer) -> Iterator[Bench]:
    """Give a worker that consumes, with the rights of its host alone, its broker and an empty catalog."""
    redis_server.start()
    worker = WorkerProcess(f"h{uuid4().hex[:8]}", tmp_path, redis_server.url)
    key = generate_key("control")
    signing_key, _ = write_key(key, tmp_path)
    worker.access = {"FLEETSAVE_TRUST__KEYS_DIR": str(tmp_path)} | _add_user(
        redis_server, host_user(worker.host), tmp_path
    )
    app = make_app(Settings(broker_url=redis_server.url, signing_key=signing_key))
    redis = open_redis(redis_server.url, client_name="test")
    catalog = open_catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    try:
        worker.start()
        yield Bench(worker, app, catalog, redis, key)
    finally:
        worker.close()
        catalog.close()
        redis.close()
        app.close()


def _add_user(server: RedisServer, user: RedisUser, folder: Path) -> dict[str, str]:
    """Let a user into Redis; return the settings that it proves itself with."""
    password = new_password()
    server.add_users(user.format_line(password) + "\n")
    file = folder / f"{user.name}.password"
    file.write_text(password + "\n")
    return {"FLEETSAVE_BROKER__USERNAME": user.name, "FLEETSAVE_BROKER__PASSWORD_FILE": str(file)}


@pytest.fixture
def known_bench(bench: Bench) -> Bench:
    """Give a bench whose catalog knows the host."""

    def listed() -> bool:
        apply_events(bench.catalog, bench.redis, [bench.worker.host])
        return bool(queries.list_domains(bench.catalog, host=bench.worker.host))

    wait_until(listed, what="inventory")
    return bench


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., Any]:
    """Give the function that waits for a condition."""
    return wait_until
