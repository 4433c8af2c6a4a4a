"""Submission against the catalog; the broker is a closed port, so every doorbell fails."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from engine.errors import DomainBusyError, EngineError, NoDomainError
from tasks.catalog import Catalog, open_catalog, queries
from tasks.config import Settings
from tasks.errors import BrokerError, UsageError
from tasks.states import JobState
from tasks.submit import DomainRef, submit
from tests.contract.catalog_scene import add_two_hosts, make_unheard_app


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    """Give an application whose broker is not there."""
    made = make_unheard_app(Settings(broker_url="redis://127.0.0.1:1/0"))
    yield made
    made.close()


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """Give a catalog with two hosts: `both` is on each, the others on one."""
    with open_catalog(url) as opened:
        add_two_hosts(opened)
        yield opened


def refuse(
    catalog: Catalog, app: Celery, *domains: DomainRef, op: str = "save", **params: Any
) -> EngineError:
    """Return why the submission was refused; nothing may be left of it."""
    before = len(queries.list_jobs(catalog))
    with pytest.raises(EngineError) as caught:
        submit(catalog, app, op=op, domains=domains, params=params)
    assert len(queries.list_jobs(catalog)) == before
    return caught.value


def queue(catalog: Catalog, app: Celery, *domains: DomainRef, op: str = "save", **params: Any) -> BrokerError:
    """Submit; the rows are made, the doorbells fail."""
    with pytest.raises(BrokerError) as caught:
        submit(catalog, app, op=op, domains=domains, params=params, run_id="r1")
    return caught.value


def test_rows_wait_where_the_broker_is_down(catalog: Catalog, app: Celery) -> None:
    """The error says which; they are queued and not rung for."""
    error = queue(catalog, app, DomainRef("web-1"), DomainRef("beta-db-1"), bypass_cache="prefer")
    jobs = {job.job_id: job for job in queries.list_jobs(catalog)}
    assert error.exit_code == 40
    assert [jobs[job_id].domain_name for job_id in error.job_ids] == ["web-1", "db-1"]
    assert [jobs[job_id].host for job_id in error.job_ids] == ["alpha", "beta"]
    for job in jobs.values():
        assert (job.state, job.rung_at, job.run_id) == (JobState.QUEUED, None, "r1")
        assert job.params == {"bypass_cache": "prefer"}
        assert job.job_id in str(error)


def test_unknown_domain_is_not_guessed(catalog: Catalog, app: Celery) -> None:
    """Nothing at all is submitted then; the hint says what helps."""
    error = refuse(catalog, app, DomainRef("web-1"), DomainRef("nobody"))
    assert isinstance(error, NoDomainError)
    assert "--host" in error.hint


def test_name_on_two_hosts_is_asked_back(catalog: Catalog, app: Celery) -> None:
    """With the hosts' names; with a host it is clear, and each has a job of its own."""
    error = refuse(catalog, app, DomainRef("both"))
    assert isinstance(error, UsageError)
    assert "alpha, beta" in str(error)
    queue(catalog, app, DomainRef("both", "alpha"), DomainRef("both", "beta"))
    assert len(queries.list_jobs(catalog)) == 2


def test_domain_that_was_not_reported_yet_is_the_hosts_to_know(catalog: Catalog, app: Celery) -> None:
    """Where the host is named."""
    queue(catalog, app, DomainRef("new-1", "alpha"))
    [job] = queries.list_jobs(catalog)
    assert (job.domain, job.domain_uuid, job.host) == ("new-1", None, "alpha")


def test_host_that_never_reported_is_a_spelling_mistake(catalog: Catalog, app: Celery) -> None:
    """Nobody would hear the doorbell."""
    error = refuse(catalog, app, DomainRef("web-1", "alphaa"))
    assert "alpha, beta" in str(error)


@pytest.mark.parametrize("again", ["web-1", "alpha-web-1"])
def test_domain_with_an_unfinished_job_is_busy(catalog: Catalog, app: Celery, again: str) -> None:
    """By name or UUID, whatever the operation; the job that holds it is named."""
    error = queue(catalog, app, DomainRef("web-1"))
    busy = refuse(catalog, app, DomainRef("web-2"), DomainRef(again), op="managed-save")
    assert isinstance(busy, DomainBusyError)
    assert error.job_ids[0] in str(busy)


def test_domain_named_twice_is_busy_with_itself(catalog: Catalog, app: Celery) -> None:
    """One job for each domain."""
    assert isinstance(refuse(catalog, app, DomainRef("web-1"), DomainRef("alpha-web-1")), DomainBusyError)


def test_restore_goes_to_the_host_that_has_the_image(catalog: Catalog, app: Celery) -> None:
    """And holds the domain that is in it."""
    queue(catalog, app, DomainRef(None), op="restore", path="/s/p")
    [job] = queries.list_jobs(catalog)
    assert (job.host, job.domain, job.domain_name, job.label) == ("beta", None, "db-1", "db-1")
    assert isinstance(refuse(catalog, app, DomainRef("db-1")), DomainBusyError)


def test_image_that_nobody_reported_needs_a_host(catalog: Catalog, app: Celery) -> None:
    """With one, the host finds out; the path is what the job holds."""
    assert "--host" in str(refuse(catalog, app, DomainRef(None), op="restore", path="/x"))
    queue(catalog, app, DomainRef(None, "alpha"), op="restore", path="/x")
    assert isinstance(
        refuse(catalog, app, DomainRef(None, "alpha"), op="restore", path="/x"), DomainBusyError
    )


@pytest.mark.parametrize(
    ("op", "domain", "params"),
    [
        ("wipe", "web-1", {}),
        ("save", None, {}),
        ("save", "web-1", {"store": "/etc"}),
        ("save", "web-1", {"to": "relative"}),
        ("restore", "web-1", {"path": "/x"}),
        ("restore", None, {}),
    ],
)
def test_what_no_host_would_take_is_refused_at_once(
    catalog: Catalog, app: Celery, op: str, domain: str | None, params: dict[str, Any]
) -> None:
    """As a mistake in the call, exit status 2."""
    error = refuse(catalog, app, DomainRef(domain, "alpha"), op=op, **params)
    assert (type(error), error.exit_code) == (UsageError, 2)
