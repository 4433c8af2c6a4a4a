"""Run a real worker on a sandbox host whose engines stand still at the step that a test names."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.demo.fleet import Fleet, Worker
from cli.sandbox import Host
from tasks.broker import open_redis
from tasks.catalog import JobView, open_catalog, queries
from tasks.events import apply_events
from tasks.wait import wait_jobs

#: A worker whose engines are the program in its second argument, told of the file in its third.
_WORKER = """
import sys
from tasks.config import load_settings
from tasks.worker import run_worker
sys.exit(run_worker(load_settings(), engine_command=(sys.executable, "-c", *sys.argv[1:])))
"""
#: The engine, which stands still at the step that a file names, if there is such a file.
_ENGINE = """
import io, json, pathlib, sys
from engine.__main__ import main
request, file = json.load(sys.stdin), pathlib.Path(sys.argv[1])
if file.exists():
    request["hold_at"] = file.read_text()
sys.stdin = io.TextIOWrapper(io.BytesIO(json.dumps(request).encode()))
sys.exit(main())
"""
#: Seconds that DESIGN.md allows after the worker is up.
RIGHT_SECONDS = 10.0


def wait_until(condition: Callable[[], object], *, seconds: float = RIGHT_SECONDS, what: str = "") -> Any:
    """Return what the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what or condition}"
        time.sleep(0.02)
    return value


@dataclass(kw_only=True)
class HeldWorker:
    """A worker that can be killed, and the control side."""

    host: Host
    fleet: Fleet
    #: Of the worker's own folder.
    name: str = "killed-worker"

    @property
    def folder(self) -> Path:
        """The worker's own."""
        return self.host.home / self.name

    @property
    def worker(self) -> Worker:
        """The worker that was started last."""
        return self.fleet.workers[self.host.name]

    def start(self) -> None:
        """Start a worker and wait until it takes jobs."""
        log = self.host.logs / f"{self.name}-{time.monotonic_ns()}.log"
        environment = {
            "FLEETSAVE_BROKER_URL": self.fleet.broker.url,
            "FLEETSAVE_TRUST__KEYS": json.dumps({self.fleet.key.key_id: self.fleet.key.public.text}),
            "FLEETSAVE_HOST__NAME": self.host.name,
            "FLEETSAVE_HOST__URI": self.host.uri,
            "FLEETSAVE_HOST__STORE": str(self.host.store),
            "FLEETSAVE_HOST__STATE_DIR": str(self.folder),
            "FLEETSAVE_HOST__RUNTIME_DIR": str(self.host.runtime_dir / "fleetsave"),
            "FLEETSAVE_HOST__METRICS_PORT": "0",
            "FLEETSAVE_HOST__INVENTORY_SECONDS": "1",
        }
        argv = [*self.host.python, "-c", _WORKER, _ENGINE, self.folder / "hold-at"]
        with log.open("w") as opened:
            process = self.host.popen(argv, stdout=subprocess.DEVNULL, stderr=opened, env=environment)
        worker = Worker(host=self.host, config=log, log=log, process=process)
        self.fleet.workers[self.host.name] = worker
        worker.wait_ready()

    def kill_worker(self) -> None:
        """Kill the worker, not its engine."""
        self.worker.process.kill()
        self.worker.process.wait()

    def engine_pid(self, job_id: str) -> int:
        """Return the job's engine, from the journal."""
        path = self.folder / "journal.sqlite"
        with closing(sqlite3.connect(path)) as journal:
            [(pid,)] = journal.execute("SELECT engine_pid FROM jobs WHERE job_id = ?", (job_id,))
        return int(pid)

    def hold(self, step: str, *words: str | Path) -> str:
        """Submit a job and return its id once its engine stands at the step."""
        (self.folder / "hold-at").write_text(step)
        done = self.fleet.run(*words, "--host", self.host.name, "--no-wait")
        assert done.returncode == 0, done.stderr
        job_id = done.stdout.strip()
        events = self.folder / "jobs" / job_id / "events.jsonl"

        def is_there() -> bool:
            ended = [line for line in self.worker.log.read_text().splitlines() if '"job ended"' in line]
            assert not any(job_id in line for line in ended), ended
            lines = events.read_text().splitlines() if events.exists() else []
            return any(step in {event["event"], event.get("step")} for event in map(json.loads, lines))

        wait_until(is_there, seconds=60, what=step)
        (self.folder / "hold-at").unlink()
        return job_id

    def end_of(self, job_id: str, *, seconds: float = RIGHT_SECONDS) -> JobView:
        """Wait for the end of a job."""
        redis = open_redis(self.fleet.broker.url, client_name="test")
        with open_catalog(self.fleet.catalog_url) as catalog, closing(redis):
            return list(wait_jobs(catalog, redis, [job_id], timeout_seconds=seconds))[-1]

    def view(self, job_id: str) -> JobView:
        """Return the job as the catalog knows it once it has heard all that was said."""
        redis = open_redis(self.fleet.broker.url, client_name="test")
        with open_catalog(self.fleet.catalog_url) as catalog, closing(redis):
            apply_events(catalog, redis)
            return queries.find_jobs(catalog, [job_id])[0]

    def count(self, kind: str) -> float:
        """Return how many such recoveries the worker has counted."""
        return self.worker.scrape()["fleetsave_recoveries_total", (("kind", kind),)]

    def staging(self) -> list[Path]:
        """Return what is left in staging and of runtime directories."""
        jobs = self.host.runtime_dir / "fleetsave" / "jobs"
        return [*self.host.store.glob(".staging/*"), *self.host.store.glob(".fleetsave-*"), *jobs.glob("*")]
