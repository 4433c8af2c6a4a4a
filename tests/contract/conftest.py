"""Give the contract suite its databases; its hypervisors, and a guest on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from cli.sandbox import PostgresServer, Sandbox
from engine.hypervisor.port import Domain
from tasks.catalog import Catalog, open_catalog
from tests.contract.hypervisor_lab import Lab, LibvirtLab, SimLab


@pytest.fixture(scope="session")
def postgres_database(postgres_server: PostgresServer) -> str:
    """Give the URL of a database that each test empties."""
    return postgres_server.create_database()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Give a function that makes an empty database, of each kind in turn, and returns its URL."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{uuid4().hex}.sqlite"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.start()
    database: str = request.getfixturevalue("postgres_database")

    def empty() -> str:
        # A hundred times faster than another database.
        with psycopg.connect(database.replace("+psycopg", "")) as connection:
            connection.execute("SET lock_timeout = 5000")
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return database

    return empty


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    """Give the URL of an empty database."""
    return new_url()


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """Give an empty catalog."""
    with open_catalog(url) as opened:
        yield opened


@pytest.fixture(scope="session")
def sim_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimLab]:
    """Give one simulated host to the whole session."""
    lab = SimLab(tmp_path_factory.mktemp("sim"))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def libvirt_lab() -> Iterator[LibvirtLab]:
    """Give one libvirt to the whole session; nobody else kills its daemon."""
    with Sandbox(("contract",)) as opened:
        lab = LibvirtLab(opened.hosts["contract"])
        yield lab
        lab.close()


@pytest.fixture(params=["sim", pytest.param("libvirt", marks=pytest.mark.e2e)])
def lab(request: pytest.FixtureRequest) -> Any:
    """Give each hypervisor in turn."""
    return request.getfixturevalue(f"{request.param}_lab")


@pytest.fixture
def guest(lab: Lab) -> Domain:
    """Give a guest that runs; whatever a test leaves of it is put right by the next."""
    lab.bench.leave()
    found = lab.steady_guest()
    image = lab.managed / f"{found.name}.save"
    if image.is_dir():
        image.rmdir()
    now: Domain = lab.bench.hypervisor("find_domain", found.uuid)
    if now.has_managed_save:
        lab.bench.hypervisor("managed_save_remove", found.uuid)
    if not now.is_active:
        lab.bench.hypervisor("start", found.uuid, 0)
        lab.wait_counting(found)
    elif not now.is_running:
        lab.bench.hypervisor("resume", found.uuid)
    fresh: Domain = lab.bench.hypervisor("find_domain", found.uuid)
    assert fresh.is_running, fresh
    return fresh


@pytest.fixture
def new_guest(lab: Lab) -> Iterator[Callable[..., Domain]]:
    """Give a function that adds guests, taken away after the test."""
    made: list[Domain] = []

    def make(**options: Any) -> Domain:
        made.append(lab.make_guest(**options))
        return made[-1]

    yield make
    for domain in made:
        lab.remove(domain)
