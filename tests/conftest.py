"""Fixtures that every kind of test may use: a fleet on this machine, guests on it, Redis and PostgreSQL.

They skip nothing: without root or without the guest kernel a test that asks for them fails and says why.
"""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from cli.sandbox import Guest, GuestSpec, Host, PostgresServer, RedisServer, Sandbox

# On a busy machine an example may take any time: how long it takes says nothing about what is tested.
settings.register_profile("fleetsave", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fleetsave")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """Give two hypervisor hosts, alpha and beta, for the whole session."""
    with Sandbox(("alpha", "beta")) as opened:
        yield opened


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis server for the whole session; whoever stops it starts it again."""
    with Sandbox(()) as opened, opened.redis() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Give a PostgreSQL server for the whole session; whoever stops it starts it again."""
    with Sandbox(()) as opened, opened.postgres() as server:
        yield server


@pytest.fixture
def guest_factory(sandbox: Sandbox) -> Iterator[Callable[..., Guest]]:
    """Give a function that defines small guests, named apart from all others, removed after the test.

    It takes the fields of GuestSpec, and `host`: a Host or its name, alpha unless told.
    """
    made: list[Guest] = []

    def define(*, host: Host | str = "alpha", **fields: object) -> Guest:
        fields.setdefault("name", f"guest-{uuid4().hex[:8]}")
        spec = GuestSpec(**fields)  # type: ignore[arg-type]
        place = sandbox.hosts[host] if isinstance(host, str) else host
        guest = place.define(spec)
        made.append(guest)
        return guest

    yield define
    for guest in made:
        # A test may have restored it anywhere.
        for host in sandbox.hosts.values():
            host.guest(guest.spec).remove()


@pytest.fixture
def running_guest(guest_factory: Callable[..., Guest]) -> Guest:
    """Give a guest on alpha that has been started and counts."""
    guest = guest_factory()
    guest.start()
    guest.wait_counting()
    return guest
