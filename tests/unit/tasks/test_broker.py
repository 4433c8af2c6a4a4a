import pytest

from tasks.broker import (
    cancel_key,
    drain_key,
    find_queue_name,
    first_queue_name,
    open_redis,
    queue_name,
    redact_url,
    stream_name,
)
from tasks.envelope import is_host_name
from tasks.params import OPERATION_PARAMS


def test_names_carry_the_host() -> None:
    """The access rules of Redis speak of exactly these."""
    assert (queue_name("alpha"), stream_name("alpha")) == ("host.alpha", "events.alpha")
    assert first_queue_name("alpha") == "host.alpha.restore"
    assert (cancel_key("alpha", "j1"), drain_key("alpha")) == ("cancel.alpha.j1", "drain.alpha")


@pytest.mark.parametrize("op", OPERATION_PARAMS)
def test_who_waits_without_a_guest_comes_first(op: str) -> None:
    """Restores and starts have a queue of their own; no host's name is that of such a queue."""
    is_first = op in {"restore", "start"}
    assert find_queue_name("alpha", op) == (first_queue_name if is_first else queue_name)("alpha")
    assert not is_host_name("alpha.restore")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://broker:6380/2", {"host": "broker", "port": 6380, "db": 2}),
        ("redis://:pw@broker/0", {"host": "broker", "password": "pw"}),
        ("redis+socket:///run/redis.sock?virtual_host=3", {"path": "/run/redis.sock", "db": 3}),
        ("redis+socket:///run/redis.sock", {"path": "/run/redis.sock", "db": 0}),
    ],
)
def test_celerys_spelling_of_the_address_is_understood(url: str, wanted: dict[str, object]) -> None:
    """One setting serves both clients; a silent broker is noticed."""
    with open_redis(url, client_name="x") as client:
        found = client.connection_pool.connection_kwargs
        assert {key: found[key] for key in wanted} == wanted
        assert found["socket_timeout"] == 10


def test_password_is_not_shown() -> None:
    """In logs and messages."""
    assert redact_url("redis://user:secret@broker:6379/0") == "redis://***@broker:6379/0"
    assert redact_url("redis://broker/0") == "redis://broker/0"
    assert redact_url("sqlite:////var/lib/c.sqlite") == "sqlite:////var/lib/c.sqlite"
    assert (
        redact_url("postgresql://db/x?user=u&Password=s&a=b") == "postgresql://db/x?user=u&Password=***&a=b"
    )
