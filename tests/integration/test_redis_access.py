"""What a stolen credential is good for, with the access rules as they are generated, in a real Redis."""

import json
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from cli.sandbox import RedisServer, Sandbox
from tasks.app import make_app
from tasks.broker import EVENT_FIELD, open_redis, stream_name
from tasks.catalog import Catalog, models, open_catalog, queries
from tasks.config import Settings
from tasks.events import apply_events
from tasks.host_event import EventKind, HostEvent
from tasks.states import JobState
from tasks.submit import DomainRef, submit

pytestmark = pytest.mark.integration


def generate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run fleetsave config redis-acl."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "config", "redis-acl", "--passwords", str(folder), *words],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of passwords."""
    return tmp_path_factory.mktemp("acl") / "passwords"


@pytest.fixture(scope="module")
def server(passwords: Path) -> Iterator[RedisServer]:
    """Give a Redis that has nobody but the users of a generated file."""
    done = generate(
        passwords, "--host", "alpha", "--host", "alpha.b", "--host", "beta", "--control", "--admin"
    )
    assert done.returncode == 0, done.stderr
    with Sandbox(()) as sandbox, sandbox.redis() as opened:
        opened.add_users(done.stdout)
        yield opened


@pytest.fixture
def login(server: RedisServer, passwords: Path) -> Iterator[Callable[[str], Redis]]:
    """Give a function that returns a client of a user."""
    clients: list[Redis] = []

    def connect(user: str) -> Redis:
        password = (passwords / f"{user}.password").read_text().strip()
        url = server.url.replace("://", f"://{user}:{password}@")
        clients.append(open_redis(url, client_name="thief"))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Give a catalog with a job on beta that runs."""
    now = datetime.now(UTC)
    with open_catalog(f"sqlite:///{tmp_path}/c.sqlite") as opened:
        with opened.write() as session:
            session.add(
                models.Job(
                    id="job-of-beta", op="save", host="beta", domain="d", target="d", params={},
                    state="running", created_at=now,
                )
            )  # fmt: skip
        yield opened


def test_nobody_gets_in_without_a_password(server: RedisServer) -> None:
    """The user default, whom every client is at first, is switched off."""
    with Redis.from_url(server.url) as nobody, pytest.raises(AuthenticationError):
        nobody.ping()


@pytest.mark.parametrize(
    "words",
    [
        ("LPUSH", "host.beta", "x"),
        ("RPUSH", "host.beta", "x"),
        ("LPUSH", "host.alpha", "x"),
        ("RPUSH", "host.alpha", "x"),
        ("LPUSH", "control", "x"),
        ("BRPOP", "host.beta", "1"),
        ("BRPOP", "host.alpha.b", "1"),
        ("BRPOP", "host.alpha", "host.beta", "1"),
        ("LRANGE", "host.beta", "0", "-1"),
        ("LLEN", "host.beta"),
        ("XADD", "events.beta", "*", "event", "x"),
        ("XADD", "events.alpha.b", "*", "event", "x"),
        ("XREAD", "STREAMS", "events.beta", "0"),
        ("XREAD", "STREAMS", "events.alpha", "0"),
        ("XTRIM", "events.beta", "MAXLEN", "0"),
        ("DEL", "events.alpha"),
        ("DEL", "host.beta"),
        ("SET", "cancel.alpha.j1", "1"),
        ("SET", "cancel.beta.j1", "1"),
        ("GET", "cancel.beta.j1"),
        ("SET", "drain.alpha", "1"),
        ("GET", "drain.beta"),
        ("SADD", "_kombu.binding.host.beta", "x"),
        ("SADD", "_kombu.binding.control", "x"),
        ("RENAME", "host.alpha", "host.beta"),
        ("COPY", "host.alpha", "host.beta"),
        ("EVAL", "return redis.call('lpush', 'host.beta', 'x')", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LIST"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("MONITOR",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/etc"),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("PUBLISH", "x", "y"),
        ("SUBSCRIBE", "x"),
        ("FLUSHALL",),
        ("SHUTDOWN",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("MODULE", "LIST"),
    ],
    ids=" ".join,
)
def test_stolen_host_credential_is_good_for_its_own_host_only(
    login: Callable[[str], Redis], words: tuple[str, ...]
) -> None:
    """It enqueues nothing anywhere, reads no other host's queue, and speaks in no other host's stream."""
    with pytest.raises(NoPermissionError, match="permission"):
        login("host-alpha").execute_command(*words)


def test_host_may_do_its_work(login: Callable[[str], Redis]) -> None:
    """Else the test above would pass for a user who may do nothing."""
    alpha = login("host-alpha")
    assert alpha.xadd("events.alpha", {"event": "x"}, maxlen=10, approximate=True)
    assert alpha.brpop(["host.alpha.restore", "host.alpha"], timeout=0.01) is None
    assert alpha.mget("cancel.alpha.j1", "drain.alpha") == [None, None]
    assert "maxmemory_policy" in alpha.info("memory")


def test_one_host_cannot_end_another_hosts_job(login: Callable[[str], Redis], catalog: Catalog) -> None:
    """What it says of another's job, or in another's name, in the one stream it has, changes nothing."""
    alpha, control = login("host-alpha"), login("control")
    for host in ("alpha", "beta"):
        event = HostEvent(
            host=host, kind=EventKind.STATE, at=datetime.now(UTC), job_id="job-of-beta", attempt=1, seq=99,
            body={"state": "succeeded", "reason": None, "result": {"path": "/x", "bytes": 1}},
        )  # fmt: skip
        alpha.xadd(stream_name("alpha"), {EVENT_FIELD: event.to_json()})
        for kind in (EventKind.STEP, EventKind.PROGRESS):
            other = HostEvent(
                host=host, kind=kind, at=datetime.now(UTC), job_id="job-of-beta", attempt=1, seq=100,
                body={"step": "commit", "bytes": 1, "total": 1},
            )  # fmt: skip
            alpha.xadd(stream_name("alpha"), {EVENT_FIELD: other.to_json()})
    inventory = HostEvent(
        host="beta", kind=EventKind.INVENTORY, at=datetime.now(UTC), body={"facts": {}, "domains": []}
    )
    alpha.xadd(stream_name("alpha"), {EVENT_FIELD: inventory.to_json()})

    assert apply_events(catalog, control) == 0
    [job] = queries.find_jobs(catalog, ["job-of-beta"])
    assert (job.state, job.step, job.bytes_done) == (JobState.RUNNING, None, None)
    assert queries.list_restore_points(catalog) == []
    assert queries.list_hosts(catalog) == []


def test_control_rings_at_hosts_and_cannot_speak_for_them(
    login: Callable[[str], Redis], server: RedisServer, passwords: Path, catalog: Catalog
) -> None:
    """The control side works with its rules; they hold neither the events nor Redis itself."""
    with catalog.write() as session:
        session.add(models.Host(name="beta"))
    password = passwords / "control.password"
    settings = Settings(
        broker={"username": "control", "password_file": password},  # type: ignore[arg-type]
        broker_url=server.url,
    )
    app = make_app(settings)
    [job] = submit(catalog, app, op="save", domains=[DomainRef("web-1", "beta")])
    app.close()
    assert job.rung_at is not None
    control = login("control")
    assert control.llen("host.beta") == 1
    assert control.set(f"cancel.beta.{uuid4().hex}", "1", ex=1)
    for words in (
        ("XADD", "events.beta", "*", "event", "x"), ("DEL", "events.beta"), ("CONFIG", "GET", "*"),
        ("EVAL", "return 1", "0"), ("FLUSHALL",), ("ACL", "LIST"), ("GET", "anything"),
    ):  # fmt: skip
        with pytest.raises(NoPermissionError):
            control.execute_command(*words)


def test_passwords_are_kept_and_never_shown(passwords: Path, server: RedisServer) -> None:
    """Made once, in files of their owner; a second run for one more host changes nobody's."""
    del server  # It has had them made.
    before = {file.name: file.read_text() for file in passwords.iterdir()}
    assert len({*before.values()}) == len(before) == 5
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in passwords.iterdir())
    out = passwords.parent / "users.acl"

    plain = generate(passwords, "--host", "alpha", "--host", "gamma")
    written = generate(passwords, "--host", "alpha", "--out", str(out), "--json")

    after = {file.name: file.read_text() for file in passwords.iterdir()}
    assert after.keys() - before.keys() == {"host-gamma.password"}
    assert after | before == after
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert json.loads(written.stdout)["acl"] == out.read_text()
    for text in (plain.stdout, plain.stderr, written.stdout, out.read_text()):
        assert not any(password.strip() in text for password in after.values())
    assert plain.stdout.splitlines()[1] == out.read_text().splitlines()[1]


@pytest.mark.parametrize("words", [(), ("--host", "a b"), ("--host", "*"), ("--operator", "a/b")])
def test_name_that_would_be_a_rule_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A host called * would be every host."""
    done = generate(tmp_path / "p", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "p").exists()


def test_password_file_that_holds_none_is_named(tmp_path: Path) -> None:
    """An empty password would let anybody in."""
    (tmp_path / "host-alpha.password").touch()
    done = generate(tmp_path, "--host", "alpha")
    assert done.returncode == 20
    assert "host-alpha.password" in done.stderr
