"""What fleetsave doctor says of the broker and of trust, with a real Redis and a host's rights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from cli.sandbox import RedisServer, Sandbox
from engine.findings import Finding
from tasks.access import BrokerSettings, TrustSettings
from tasks.config import Settings
from tasks.keys import generate_key, write_key
from tasks.redis_acl import host_user, new_password
from tasks.survey import survey_fleet

pytestmark = pytest.mark.integration

KEY = generate_key("control-2026")
TRUST = TrustSettings(keys={KEY.key_id: KEY.public.text})


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Give a Redis whose settings a test may change."""
    with Sandbox(()) as sandbox, sandbox.redis() as opened:
        yield opened


@pytest.fixture
def broker(server: RedisServer, tmp_path: Path) -> BrokerSettings:
    """Give what a host proves itself with."""
    password = new_password()
    server.add_users(host_user("alpha").format_line(password) + "\n")
    file = tmp_path / "password"
    file.write_text(password)
    return BrokerSettings(username="host-alpha", password_file=file)


def look(settings: Settings) -> dict[str, Finding]:
    """Return the findings by what was looked at."""
    return {finding.name: finding for finding in survey_fleet(settings)}


def test_healthy_fleet_has_no_finding_that_stands_in_the_way(
    server: RedisServer, broker: BrokerSettings
) -> None:
    """A host's own rights are enough to see it."""
    found = look(Settings(broker=broker, broker_url=server.url, trust=TRUST))
    assert [finding.error for finding in found.values()] == [None, None]
    assert "evicts nothing" in found["broker"].detail
    assert found["trust"].detail == "jobs are taken from control-2026"


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "yes")],
)
def test_redis_that_may_lose_events_is_named(
    server: RedisServer, broker: BrokerSettings, option: str, value: str, right: str
) -> None:
    """With the command that puts it right, which does."""
    settings = Settings(broker=broker, broker_url=server.url, trust=TRUST)
    with Redis.from_url(server.url) as admin:
        admin.config_set(option, value)
        error = look(settings)["broker"].error
        assert error is not None
        assert error.exit_code == 40
        command = error.hint.partition("redis-cli ")[2]
        assert command == f"CONFIG SET {option} {right}"
        admin.execute_command(*command.split())
        assert look(settings)["broker"].error is None


def test_broker_that_refuses_us_is_named_without_the_password(server: RedisServer, tmp_path: Path) -> None:
    """And so is one that is not there."""
    file = tmp_path / "password"
    file.write_text("a-wrong-secret")
    broker = BrokerSettings(username="host-alpha", password_file=file)
    for url, hint in ((server.url, "redis-acl"), ("redis://127.0.0.1:1/0", "start it")):
        error = look(Settings(broker=broker, broker_url=url, trust=TRUST))["broker"].error
        assert error is not None
        assert (error.exit_code, hint in str(error), "a-wrong-secret" in str(error)) == (40, True, False)


def test_what_is_trusted_is_said(tmp_path: Path) -> None:
    """Nobody, anybody, or these keys; a control host need not trust any."""
    url = "redis://127.0.0.1:1/0"
    nobody = look(Settings(broker_url=url))["trust"]
    assert nobody.error is not None
    assert nobody.error.exit_code == 2
    anybody = look(Settings(broker_url=url, trust=TrustSettings(insecure=True)))["trust"]
    assert (anybody.error, anybody.is_warning) == (None, True)
    private, _ = write_key(KEY, tmp_path)
    control = look(Settings(broker_url=url, signing_key=private))
    assert "trust" not in control
    assert control["signing key"].detail == "control-2026 signs jobs"
    private.chmod(0o644)
    assert look(Settings(broker_url=url, signing_key=private))["signing key"].error is not None


def test_machine_in_no_fleet_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It saves and restores locally."""
    monkeypatch.delenv("FLEETSAVE_BROKER_URL", raising=False)
    assert look(Settings()) == {}
