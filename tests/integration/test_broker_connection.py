"""How Celery and our own client reach Redis: over TLS with certificates on both sides, over a Unix socket."""

import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from cli.sandbox import RedisServer, Sandbox
from tasks.access import BrokerSettings
from tasks.app import make_app
from tasks.broker import open_redis
from tasks.catalog import models, queries
from tasks.config import Settings
from tasks.errors import BrokerError
from tasks.redis_acl import RedisUser, control_user, host_user, new_password
from tasks.states import JobState
from tasks.submit import DomainRef, submit
from tasks.wait import wait_jobs
from tests.data.certificates import Authority

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Place:
    """A Redis that is reached in two ways, neither of them the usual one."""

    server: RedisServer
    authority: Authority
    #: Where the passwords go.
    folder: Path
    tls_port: int
    socket: Path

    @property
    def tls_url(self) -> str:
        """Address over TLS."""
        return f"rediss://127.0.0.1:{self.tls_port}/0"

    def let_in(self, user: RedisUser) -> dict[str, Path | str]:
        """Let a user in; return what it proves itself with."""
        password = new_password() + "/+%@:"
        self.server.add_users(user.format_line(password) + "\n")
        file = self.folder / f"{user.name}.password"
        file.write_text(password)
        return {"username": user.name, "password_file": file}

    def certificates(self, name: str, authority: Authority | None = None) -> dict[str, Path | str]:
        """Return what a side of TLS needs."""
        cert_file, key_file = self.authority.issue(name, "127.0.0.1")
        ca_file = (authority or self.authority).ca_file
        return {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Give a Redis that speaks TLS, to nobody without a certificate, and listens on a Unix socket."""
    folder = tmp_path_factory.mktemp("broker")
    authority = Authority(folder, "authority")
    with socket.socket() as probe, Sandbox(()) as sandbox:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        served = sandbox.base / "redis-files"
        served.mkdir(mode=0o777)
        served.chmod(0o777)
        files = [*authority.issue("redis", "127.0.0.1"), authority.ca_file]
        certificate, key, trusted = (Path(shutil.copy(file, served)) for file in files)
        configuration = {
            "tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key),
            "tls-ca-cert-file": str(trusted), "tls-auth-clients": "yes",
            "unixsocket": str(served / "redis.sock"), "unixsocketperm": "777",
        }  # fmt: skip
        with sandbox.redis(configuration) as server:
            yield Place(server, authority, folder, port, served / "redis.sock")


def run_one_job(bench: Any, url: str, worker: dict[str, Any], control: dict[str, Any]) -> None:
    """Let the worker and the control side meet at the URL; one job goes all the way."""
    bench.worker.end(signal.SIGTERM)
    bench.worker.broker_url = url
    kept = {key: value for key, value in bench.worker.access.items() if "TRUST" in key}
    given = {f"FLEETSAVE_BROKER__{key.upper()}": str(value) for key, value in worker.items()}
    bench.worker.access = kept | given
    bench.worker.start()
    signing_key = bench.worker.folder / "control.key"
    settings = Settings(broker=BrokerSettings(**control), broker_url=url, signing_key=signing_key)
    with bench.catalog.write() as session:
        session.add(models.Host(name=bench.worker.host))
    with ExitStack() as stack:
        app = make_app(settings)
        stack.callback(app.close)
        redis = stack.enter_context(open_redis(settings.broker_url, client_name="test"))
        [job] = submit(bench.catalog, app, op="save", domains=[DomainRef("web-1", bench.worker.host)])
        done = list(wait_jobs(bench.catalog, redis, [job.job_id], timeout_seconds=20))[-1]
    assert done.state is JobState.SUCCEEDED


def test_jobs_and_events_go_over_tls(bench: Any, place: Place) -> None:
    """Certificates on both sides, users and passwords inside."""
    worker = place.let_in(host_user(bench.worker.host)) | place.certificates("worker")
    control = place.let_in(control_user()) | place.certificates("control")
    run_one_job(bench, place.tls_url, worker, control)


@pytest.mark.parametrize("has_users", [True, False])
def test_jobs_and_events_go_over_a_unix_socket(bench: Any, place: Place, has_users: bool) -> None:
    """With the host's rights alone, as over TCP; or where the socket's mode says who may."""
    users = [host_user(bench.worker.host), control_user()]
    worker, control = (place.let_in(user) if has_users else {} for user in users)
    run_one_job(bench, f"redis+socket://{place.socket}", worker, control)


@pytest.mark.parametrize("wrong", ["authority", "name", "no certificate"])
def test_wrong_certificate_is_no_connection(bench: Any, place: Place, wrong: str, tmp_path: Path) -> None:
    """A server that nobody vouches for, or for another name, is told nothing; the row waits."""
    url = place.tls_url.replace("127.0.0.1", "localhost") if wrong == "name" else place.tls_url
    stranger = Authority(tmp_path, "stranger")
    files = place.certificates("control", stranger if wrong == "authority" else None)
    if wrong == "no certificate":
        files = {"ca_file": files["ca_file"]}
    broker = BrokerSettings(**place.let_in(control_user()) | files)  # type: ignore[arg-type]
    settings = Settings(broker=broker, broker_url=url)
    with bench.catalog.write() as session:
        session.merge(models.Host(name="alpha"))

    with open_redis(settings.broker_url, client_name="test") as redis, pytest.raises(RedisConnectionError):
        redis.ping()
    app = make_app(settings)
    with pytest.raises(BrokerError) as caught:
        submit(bench.catalog, app, op="save", domains=[DomainRef("web-1", "alpha")])
    app.close()
    assert [job.rung_at for job in queries.find_jobs(bench.catalog, caught.value.job_ids)] == [None]
