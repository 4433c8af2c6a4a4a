"""What every database that holds a catalog must do: SQLite and PostgreSQL."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from tasks.catalog import Catalog, migrate, models, open_catalog, queries
from tasks.catalog.apply import CAPABILITIES_SIZE_MAX
from tasks.catalog.database import create_database_engine
from tasks.errors import BrokerError, ConfigError, UsageError
from tasks.host_event import EventKind, HostEvent
from tasks.states import JobState
from tests.contract.catalog_scene import T0, add_job, apply, event, inventory, one

RESULT = {
    "domain": "web-1",
    "domain_uuid": "u-1",
    "path": "/store/u-1/point",
    "bytes": 2**40,
    "checksum": {"algorithm": "blake3", "value": "ab"},
    "requirements": {"v": 1, "machine": "pc-q35-10.0"},
}
STORY = [
    event(1, EventKind.STATE, {"state": "running", "reason": None}, after_seq=0),
    event(2, EventKind.STEP, {"step": "preflight"}, after_seq=1),
    event(3, EventKind.GUEST, {"state": "paused"}, after_seq=2),
    event(5, EventKind.PROGRESS, {"bytes": 10, "total": 100}),
    event(6, EventKind.STEP, {"step": "stream"}, after_seq=3),
    event(9, EventKind.PROGRESS, {"bytes": 90, "total": 100}),
    event(10, EventKind.STATE, {"state": "committing", "reason": None}, after_seq=6),
    event(11, EventKind.STATE, {"state": "succeeded", "reason": None, "result": RESULT}, after_seq=10),
]


def check_end_of_story(catalog: Catalog) -> None:
    """Compare with what the story leads to."""
    job = one(catalog)
    assert (job.state, job.step, job.bytes_done, job.bytes_total) == (
        JobState.SUCCEEDED,
        "stream",
        2**40,
        2**40,
    )
    assert (job.domain_name, job.domain_uuid, job.result, job.error) == ("web-1", "u-1", RESULT, None)
    assert (job.started_at, job.finished_at) == (T0 + timedelta(seconds=1), T0 + timedelta(seconds=11))
    events = queries.list_job_events(catalog, "j1")
    assert [e.seq for e in events] == [1, 2, 3, 6, 10, 11]
    assert events[0].at == T0 + timedelta(seconds=1)
    with catalog.read() as session:
        row = session.get(models.Job, "j1")
        assert row is not None
        assert row.gaps == 0
    [point] = queries.list_restore_points(catalog)
    assert (point.size_bytes, point.manifest_path) == (2**40, "/store/u-1/point/manifest.json")
    assert point.requirements == RESULT["requirements"]
    with catalog.read() as session:
        [attempt] = session.scalars(select(models.Attempt)).all()
    assert (attempt.number, attempt.state) == (1, "succeeded")
    assert (attempt.started_at, attempt.finished_at) == (job.started_at, job.finished_at)


def test_migrations_make_the_tables_that_the_models_describe(url: str) -> None:
    """No difference that Alembic can see, and none twice."""
    migrate(url)
    migrate(url)
    engine = create_database_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, models.Base.metadata) == []
    engine.dispose()


def test_many_may_migrate_at_once(url: str) -> None:
    """Each command of an operator opens the catalog."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            migrate(url)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_story_told_once_in_order(catalog: Catalog) -> None:
    """Job, attempt, events and restore point."""
    add_job(catalog)
    assert all(apply(catalog, *STORY))
    check_end_of_story(catalog)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(order=st.permutations(STORY), again=st.lists(st.sampled_from(STORY), max_size=5))
def test_story_told_in_any_order_and_repeated(
    new_url: Callable[[], str], order: list[HostEvent], again: list[HostEvent]
) -> None:
    """The end is the same; what is told again changes nothing."""
    with open_catalog(new_url()) as catalog:
        add_job(catalog)
        apply(catalog, *order)
        check_end_of_story(catalog)
        assert not any(apply(catalog, *again))
        check_end_of_story(catalog)


def attempt_event(attempt: int, seq: int, state: str, **more: Any) -> HostEvent:
    """Return a state of one attempt; the numbers go on from attempt to attempt."""
    body = {"state": state, "reason": None} | more
    return replace(event(seq, EventKind.STATE, body), attempt=attempt)


BUSY = {"reason": "busy", "error": {"class": "DomainBusyError", "transient": True}, "repeatable": True}
ATTEMPTS = [
    attempt_event(1, 1, "queued"),
    attempt_event(1, 2, "running"),
    event(3, EventKind.STEP, {"step": "preflight"}),
    attempt_event(1, 4, "failed", **BUSY),
    attempt_event(2, 5, "queued"),
    attempt_event(2, 6, "running"),
    attempt_event(2, 7, "failed", **BUSY),
]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(order=st.permutations(ATTEMPTS), again=st.lists(st.sampled_from(ATTEMPTS), max_size=5))
def test_attempts_told_in_any_order_end_with_the_last(
    tmp_path_factory: pytest.TempPathFactory, order: list[HostEvent], again: list[HostEvent]
) -> None:
    """The limit is reached: the job has failed with the second; each attempt has its own end."""
    with open_catalog(f"sqlite:///{tmp_path_factory.mktemp('c')}/c.sqlite") as catalog:
        add_job(catalog, params={"retry": {"attempts": 2, "backoff": 60}})
        apply(catalog, *order, *again)
        job = one(catalog)
        assert (job.state, job.attempt, job.reason) == (JobState.FAILED, 2, "busy")
        assert job.finished_at == T0 + timedelta(seconds=7)
        with catalog.read() as session:
            found = session.scalars(select(models.Attempt).order_by(models.Attempt.number)).all()
        assert [(row.number, row.state) for row in found] == [(1, "failed"), (2, "failed")]


def test_passing_failure_leads_back_to_the_queue(catalog: Catalog) -> None:
    """With the next attempt's number and time; what the first had done is not shown any more."""
    add_job(catalog, params={"retry": {"attempts": 3, "backoff": 60}})
    apply(catalog, *ATTEMPTS[:4])
    job = one(catalog)
    assert (job.state, job.attempt, job.step) == (JobState.QUEUED, 2, None)
    assert job.due_at == T0 + timedelta(seconds=64)
    assert "attempt 1 of 3 failed: busy" in str(job.reason)
    apply(catalog, *ATTEMPTS[4:])
    assert one(catalog).due_at == T0 + timedelta(seconds=7 + 120)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"params": {}}, BUSY),
        ({"params": {"retry": {"attempts": 1}}}, BUSY),
        ({"cancel_requested_at": T0}, BUSY),
        ({}, BUSY | {"repeatable": False}),
        ({}, {"reason": "busy"}),
        ({"state": "committing"}, BUSY),
    ],
)
def test_failure_is_the_end_where_nothing_may_follow(
    catalog: Catalog, row: dict[str, Any], said: dict[str, Any]
) -> None:
    """No policy, no attempt left, a cancel, the host's no, or the point of no return."""
    add_job(catalog, **({"params": {"retry": {"attempts": 3}}} | row))
    apply(catalog, attempt_event(1, 1, "failed", **said))
    assert (one(catalog).state, one(catalog).attempt) == (JobState.FAILED, 1)


def test_final_state_never_changes(catalog: Catalog) -> None:
    """Whatever a host says later; the story keeps it."""
    add_job(catalog)
    failed = {"state": "failed", "reason": "no space", "error": {"class": "NoSpaceError", "code": 21}}
    apply(catalog, event(1, EventKind.STATE, failed))
    apply(catalog, event(2, EventKind.STATE, {"state": "succeeded", "result": RESULT}))
    job = one(catalog)
    assert (job.state, job.reason, job.result) == (JobState.FAILED, "no space", None)
    assert job.error == failed["error"]
    assert queries.list_restore_points(catalog) == []


def test_host_cannot_speak_about_another_hosts_job(catalog: Catalog) -> None:
    """Neither in its own name nor in the other's."""
    add_job(catalog, host="beta")
    mine = event(1, EventKind.STATE, {"state": "lost"})
    forged = event(1, EventKind.STATE, {"state": "lost"}, host="beta")
    unknown = event(1, EventKind.STATE, {"state": "lost"}, job_id="nobody")
    assert apply(catalog, mine, forged, unknown) == [False, False, False]
    assert one(catalog).state is JobState.QUEUED


def test_two_unfinished_jobs_cannot_share_a_domain(catalog: Catalog) -> None:
    """The database refuses the second; other hosts, other domains and the time after the end are free."""
    add_job(catalog, "j1")
    with pytest.raises(IntegrityError):
        add_job(catalog, "j2")
    add_job(catalog, "j3", host="beta")
    add_job(catalog, "j4", target="web-2")
    apply(catalog, event(1, EventKind.STATE, {"state": "failed", "reason": "x"}))
    add_job(catalog, "j5")


def test_inventory_replaces_the_one_before(catalog: Catalog) -> None:
    """Domains that are gone go; without a list they stay; an older one changes nothing."""
    apply(catalog, inventory(1, ["a", "b"], uri="qemu:///system", libvirt_up=True, store_free_bytes=2**41))
    apply(catalog, inventory(3, ["b", "c"], uri="qemu:///system", libvirt_up=True))
    assert apply(catalog, inventory(2, ["z"], uri="old"), inventory(3, ["z"])) == [False, False]
    assert [domain.name for domain in queries.list_domains(catalog)] == ["b", "c"]
    assert apply(catalog, inventory(4, None, uri="qemu:///system", libvirt_up=False)) == [True]
    [host] = queries.list_hosts(catalog)
    assert (host.uri, host.libvirt_up, host.seen_at) == ("qemu:///system", False, T0 + timedelta(seconds=4))
    [domain] = queries.list_domains(catalog, name_or_uuid="u-c")
    assert (domain.name, domain.tags, domain.memory_bytes) == ("c", ("prod",), 2**33)


def test_capabilities_stay_until_the_host_says_others(catalog: Catalog) -> None:
    """Null means as before; an older inventory, nonsense and too much change nothing."""
    apply(catalog, inventory(2, None))
    assert queries.find_capabilities(catalog, "alpha") is None
    apply(catalog, inventory(3, None, capabilities={"v": 1}), inventory(4, None))
    assert queries.find_capabilities(catalog, "alpha") == {"v": 1}
    apply(catalog, inventory(1, None, capabilities={"v": 0}), inventory(5, None, capabilities=[1]))
    apply(catalog, inventory(6, None, capabilities={"v": "x" * CAPABILITIES_SIZE_MAX}))
    assert queries.find_capabilities(catalog, "alpha") == {"v": 1}
    apply(catalog, inventory(7, None, capabilities={"v": 2}))
    assert queries.find_capabilities(catalog, "alpha") == {"v": 2}


def test_host_that_never_reported_is_named(catalog: Catalog) -> None:
    """A typing error is not an empty answer."""
    with pytest.raises(UsageError, match="host gamma: never reported"):
        queries.find_capabilities(catalog, "gamma")


def test_facts_of_a_wrong_kind_are_unknown(catalog: Catalog) -> None:
    """A host that errs does not stop the catalog."""
    apply(catalog, inventory(1, [], uri=["x"], store_free_bytes="many", libvirt_up="yes"))
    [host] = queries.list_hosts(catalog)
    assert (host.uri, host.store_free_bytes, host.libvirt_up) == (None, None, None)


def test_two_writers_wait_for_each_other(catalog: Catalog, url: str) -> None:
    """Of SQLite's single writer nothing is seen."""
    errors: list[BaseException] = []

    def write(name: str) -> None:
        with Catalog(url) as mine:
            for number in range(20):
                try:
                    add_job(mine, f"{name}-{number}", target=f"{name}-{number}")
                except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
                    errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(queries.list_jobs(catalog)) == 80


def test_failed_transaction_leaves_nothing(catalog: Catalog) -> None:
    """All or none."""

    def fail() -> None:
        with catalog.write() as session:
            session.add(models.Host(name="alpha"))
            session.flush()
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert queries.list_hosts(catalog) == []


def test_jobs_are_found_by_what_people_know(catalog: Catalog) -> None:
    """State, host, domain, run; newest first; bounded."""
    for number in range(4):
        created_at = T0 + timedelta(minutes=number)
        add_job(
            catalog,
            f"j{number}",
            target=str(number),
            domain=f"web-{number % 2}",
            run_id="r",
            created_at=created_at,
        )
    add_job(catalog, "other", host="beta")

    def ids(**filters: Any) -> list[str]:
        return [job.job_id for job in queries.list_jobs(catalog, **filters)]

    assert ids(run_id="r") == ["j3", "j2", "j1", "j0"]
    assert ids(run_id="r", limit=2) == ["j3", "j2"]
    assert ids(domain="web-0", run_id="r") == ["j2", "j0"]
    assert ids(host="beta") == ["other"]
    assert ids(states=[JobState.FAILED]) == []
    assert {job.job_id for job in queries.find_jobs(catalog, ["j0", "j9"])} == {"j0"}


def test_catalog_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    """With the exit status of an unreachable broker or catalog."""
    with pytest.raises(BrokerError, match="catalog") as caught:
        open_catalog(f"sqlite:///{tmp_path}/none/c.sqlite")
    assert caught.value.exit_code == 40


@pytest.mark.parametrize("wrong", ["nonsense", "oracle9000://x", "mysql://x/y"])
def test_catalog_url_that_means_nothing_is_a_setting_gone_wrong(wrong: str) -> None:
    """Not a traceback."""
    with pytest.raises(ConfigError, match="catalog_url"):
        open_catalog(wrong)


def test_moment_without_a_zone_is_refused(catalog: Catalog) -> None:
    """Nobody knows which moment it means."""
    with pytest.raises(Exception, match="needs a time zone"):
        add_job(catalog, created_at=datetime(2026, 1, 1))  # noqa: DTZ001
