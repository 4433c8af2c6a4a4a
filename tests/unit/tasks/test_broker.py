import pytest

from tasks.broker import open_redis, queue_name, redact_url, stream_name


def test_names_carry_the_host() -> None:
    """The access rules of Redis speak of exactly these."""
    assert (queue_name("alpha"), stream_name("alpha")) == ("host.alpha", "events.alpha")


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
