"""Run the project on the hosts of a sandbox: a worker on each, a broker, and a control side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from cli.sandbox import Host, RedisServer, Sandbox, SandboxError
from tasks.broker import open_redis
from tasks.catalog import Catalog, open_catalog, queries
from tasks.events import apply_events
from tasks.keys import generate_key, write_key
from tasks.redis_acl import host_user, new_password

#: Seconds that a worker gets to consume its queue, on a busy machine.
_READY_SECONDS: Final = 60.0
#: Seconds that a worker gets to end; running jobs are finished first.
_STOP_SECONDS: Final = 60.0
#: Seconds between two looks at something that is awaited.
_POLL_SECONDS: Final = 0.05

#: (name, labels) -> value; labels sorted.
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(slots=True, kw_only=True)
class Worker:
    """One `fleetsave worker` process of a host, as the host's unprivileged user."""

    host: Host
    config: Path
    log: Path
    process: subprocess.Popen[str]
    #: Port of /metrics on 127.0.0.1.
    metrics_port: int = 0

    def wait_ready(self) -> None:
        """Return once it takes jobs.

        Raises:
            SandboxError: it ended, or takes too long; the text holds its last words.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while not (ready := self._find_event("worker ready")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text()[-600:]
                raise SandboxError(
                    f"the worker of {self.host.name} is not ready: {tail or 'it said nothing'}"
                )
            time.sleep(_POLL_SECONDS)
        self.metrics_port = int(ready["metrics_port"])

    def scrape(self) -> Samples:
        """Return everything that its /metrics says now."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def stop(self) -> None:
        """Let it finish its jobs and end."""
        self.process.terminate()
        self.process.wait(_STOP_SECONDS)

    def _find_event(self, name: str) -> dict[str, Any]:
        """Return the first line of its log that is about the event, {} if there is none yet."""
        for line in self.log.read_text().splitlines():
            if f'"{name}"' in line:
                found: dict[str, Any] = json.loads(line)
                return found
        return {}


class Fleet:
    """Workers on all hosts of a sandbox, and the control side that gives them jobs.

    Args:
        sandbox: whose hosts; its folder takes the control side's files, too.
        broker: Redis that carries doorbells and events.
        name: of the control side's folder.
    """

    def __init__(self, sandbox: Sandbox, broker: RedisServer, *, name: str = "control") -> None:
        self.sandbox: Final = sandbox
        self.broker: Final = broker
        #: Root's own: catalog and settings of the control side.
        self.folder: Final = sandbox.base / name
        self.folder.mkdir(mode=0o700)
        self.catalog_url: Final = f"sqlite:///{self.folder / 'catalog.sqlite'}"
        self.workers: Final[dict[str, Worker]] = {}
        self._config: Final = self.folder / "fleetsave.toml"
        #: The control side's key: every worker trusts it, and no other.
        self.key: Final = generate_key(name)
        signing_key, _ = write_key(self.key, self.folder)
        settings = {
            "broker_url": broker.url,
            "catalog_url": self.catalog_url,
            "signing_key": str(signing_key),
        }
        self._config.write_text(_format_toml(settings))

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the control side's commands: ours, but no settings of another fleet."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FLEETSAVE_")}
        return kept | {"FLEETSAVE_CONFIG": str(self._config)}

    def start_workers(self, settings: Mapping[str, object] | None = None) -> None:
        """Start a worker on each host and return when all take jobs.

        Args:
            settings: keys of the [host] table on top of ours.
        """
        for host in self.sandbox.hosts.values():
            self.workers[host.name] = self._start_worker(host, settings or {})
        for worker in self.workers.values():
            worker.wait_ready()

    def stop_workers(self) -> None:
        """End all workers in order."""
        while self.workers:
            self.workers.popitem()[1].stop()

    def argv(self, *arguments: str | Path) -> list[str]:
        """Return the command line of the control side's `fleetsave`."""
        return [sys.executable, "-m", "cli.main", *map(str, arguments)]

    def run(self, *arguments: str | Path, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Run `fleetsave` on the control side and return what it printed."""
        return subprocess.run(
            self.argv(*arguments),
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def wait_hosts(self, timeout: float = 30) -> None:
        """Wait until the catalog knows all hosts.

        Raises:
            SandboxError: it does not; the text says which it knows.
        """
        self._wait(
            lambda catalog: {host.name for host in queries.list_hosts(catalog)}, set(self.workers), timeout
        )

    def wait_domains(self, states: Mapping[str, str], timeout: float = 30) -> None:
        """Wait until the hosts have reported these domains in these states.

        Args:
            states: domain name -> libvirt's word.
            timeout: seconds.

        Raises:
            SandboxError: they have not; the text says what they reported.
        """

        def list_states(catalog: Catalog) -> set[tuple[str, str]]:
            return {(domain.name, domain.state) for domain in queries.list_domains(catalog)}

        self._wait(list_states, set(states.items()), timeout)

    def _wait(self, look: Callable[[Catalog], set[Any]], wanted: set[Any], timeout: float) -> None:
        """Apply what the hosts say to the catalog until it holds what is wanted."""
        deadline = time.monotonic() + timeout
        redis = open_redis(self.broker.url, client_name="fleetsave-demo")
        with open_catalog(self.catalog_url) as catalog, closing(redis):
            while True:
                apply_events(catalog, redis)
                seen = look(catalog)
                if wanted <= seen:
                    return
                if time.monotonic() > deadline:
                    raise SandboxError(f"after {timeout:g} s the hosts report {seen}, want {wanted}")
                time.sleep(_POLL_SECONDS)

    def scrape(self) -> dict[str, Samples]:
        """Return what each host's /metrics says now."""
        return {name: worker.scrape() for name, worker in self.workers.items()}

    def _start_worker(self, host: Host, settings: Mapping[str, object]) -> Worker:
        config = host.home / "worker.toml"
        values = {
            "name": host.name,
            "uri": host.uri,
            "store": str(host.store),
            "managed_save_dir": str(host.account.config_dir / "libvirt" / "qemu" / "save"),
            "state_dir": str(host.home / "worker"),
            "runtime_dir": str(host.runtime_dir / "fleetsave"),
            "metrics_port": 0,
            "inventory_seconds": 1.0,
            **settings,
        }
        document = {
            "broker_url": self.broker.url,
            "host": values,
            "trust.keys": {self.key.key_id: self.key.public.text},
            "broker": self._let_in(host),
        }
        _give(host, config, _format_toml(document))
        log = host.logs / "worker.log"
        with log.open("w") as opened:
            process = host.popen(
                [*host.python, "-m", "cli.main", "worker", "--config", config],
                stdout=subprocess.DEVNULL,
                stderr=opened,
            )
        return Worker(host=host, config=config, log=log, process=process)

    def _let_in(self, host: Host) -> dict[str, str]:
        """Make the host a user of Redis who may do a host's work and no more; return its [broker] table."""
        user, password = host_user(host.name), new_password()
        self.broker.add_users(user.format_line(password) + "\n")
        file = host.home / "broker.password"
        _give(host, file, password)
        return {"username": user.name, "password_file": str(file)}


@contextmanager
def open_fleet(sandbox: Sandbox, broker: RedisServer, *, name: str = "control") -> Iterator[Fleet]:
    """Run workers on all hosts of a sandbox as long as the block."""
    fleet = Fleet(sandbox, broker, name=name)
    try:
        fleet.start_workers()
        yield fleet
    finally:
        fleet.stop_workers()


def _give(host: Host, file: Path, text: str) -> None:
    """Write a file that only the host's user may read."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o400)
    os.chown(file, host.uid, host.account.user.gid)
    file.write_text(text)


def _format_toml(document: Mapping[str, object]) -> str:
    """Return plain values and one level of tables as TOML; what JSON writes of them is TOML, too."""
    tables = {key: value for key, value in document.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in document.items() if key not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"
