"""Give jobs, a journal and a supervisor whose engine stands in."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tasks.broker import open_redis
from tasks.config import HostSettings
from tasks.envelope import Envelope, new_nonce
from tasks.host_flags import HostFlags
from tasks.journal import Journal
from tasks.leftovers import Leftovers
from tasks.metrics import WorkerMetrics
from tasks.slots import Slots
from tasks.supervisor import Supervisor

ENGINE = Path(__file__).resolve().parents[2] / "data" / "stand_in_engine.py"


@pytest.fixture
def make_envelope() -> Callable[..., Envelope]:
    """Give a function that makes a save for host alpha."""

    def make(domain: str = "web-1", **changes: Any) -> Envelope:
        now = datetime.now(UTC).replace(microsecond=0)
        values: dict[str, Any] = {
            "job_id": uuid4().hex,
            "attempt": 1,
            "op": "save",
            "host": "alpha",
            "domain": domain,
            "params": {},
            "issued_at": now,
            "expires_at": now + timedelta(hours=1),
            "nonce": new_nonce(),
        }
        return Envelope(**(values | changes))

    return make


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Give an empty journal."""
    with Journal(tmp_path / "journal.sqlite", host="alpha") as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path) -> HostSettings:
    """Give a host with folders of its own."""
    (tmp_path / "run").mkdir()
    return HostSettings(
        name="alpha",
        uri="test:///default",
        state_dir=tmp_path,
        runtime_dir=tmp_path / "run",
        store=tmp_path / "store",
        metrics_port=0,
    )


@pytest.fixture
def metrics() -> WorkerMetrics:
    """Give metrics that count nothing yet."""
    return WorkerMetrics(version="1", store=None)


@pytest.fixture
def leftovers(settings: HostSettings, metrics: WorkerMetrics) -> Leftovers:
    """Give the engine's own recovery; libvirt's test driver stands for the hypervisor."""
    return Leftovers(settings, metrics)


@pytest.fixture
def supervisor(
    journal: Journal, settings: HostSettings, metrics: WorkerMetrics, leftovers: Leftovers
) -> Supervisor:
    """Give a supervisor whose engine stands in."""
    return Supervisor(
        journal=journal,
        settings=settings,
        metrics=metrics,
        leftovers=leftovers,
        command=(sys.executable, str(ENGINE)),
    )


@pytest.fixture
def flags(journal: Journal) -> Iterator[HostFlags]:
    """Give flags that nobody looks at: there is no Redis."""
    with open_redis("redis://127.0.0.1:1/0", client_name="test") as redis:
        yield HostFlags(redis, journal, host="alpha", has_room=threading.Event())


@pytest.fixture
def slots() -> Slots:
    """Give room for two jobs."""
    return Slots(2, {}, threading.Event())


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """Give a function that waits for a condition and returns what it gives."""

    def wait(condition: Callable[[], object], *, seconds: float = 20.0) -> object:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {seconds} s"
            time.sleep(0.01)
        return value

    return wait
