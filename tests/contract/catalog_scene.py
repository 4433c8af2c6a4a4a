"""Say in few words what the catalog's tests are about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery

from tasks.app import make_app
from tasks.catalog import Catalog, JobView, models, queries
from tasks.catalog.apply import apply_event
from tasks.config import Settings
from tasks.host_event import EventKind, HostEvent
from tasks.states import JobState

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a moment after the beginning."""
    return T0 + timedelta(seconds=seconds)


def add_job(
    catalog: Catalog, job_id: str = "j1", *, target: str = "web-1", host: str = "alpha", **more: Any
) -> None:
    """Add a queued save."""
    values: dict[str, Any] = {
        "op": "save", "domain": "web-1", "params": {}, "state": str(JobState.QUEUED), "created_at": T0,
    }  # fmt: skip
    with catalog.write() as session:
        session.add(models.Job(id=job_id, host=host, target=target, **(values | more)))


def apply(catalog: Catalog, *events: HostEvent, host: str = "alpha") -> list[bool]:
    """Apply events, each in a transaction of its own."""
    changed = []
    for event in events:
        with catalog.write() as session:
            changed.append(apply_event(session, host, event))
    return changed


def event(
    seq: int | None,
    kind: EventKind,
    body: dict[str, Any],
    *,
    job_id: str = "j1",
    host: str = "alpha",
    **more: Any,
) -> HostEvent:
    """Return an event, a second after the one before."""
    values = {"attempt": 1} | more
    return HostEvent(host=host, kind=kind, at=at(seq or 0), body=body, job_id=job_id, seq=seq, **values)


def inventory(
    seconds: int,
    domains: list[str] | None,
    *,
    capabilities: object = None,
    host: str = "alpha",
    **facts: Any,
) -> HostEvent:
    """Return an inventory with these domains."""
    listed = domains and [
        {
            "uuid": f"u-{name}", "name": name, "state": "running", "memory_bytes": 2**33,
            "persistent": True, "has_managed_save": False, "tags": ["prod"],
        }
        for name in domains
    ]  # fmt: skip
    body = {"facts": facts, "domains": listed, "capabilities": capabilities}
    return HostEvent(host=host, kind=EventKind.INVENTORY, at=at(seconds), body=body)


def one(catalog: Catalog, job_id: str = "j1") -> JobView:
    """Return a job that must be there."""
    job = queries.find_job(catalog, job_id)
    assert job is not None
    return job


def add_two_hosts(catalog: Catalog) -> None:
    """Add alpha and beta with their domains, `both` on each, and an image of db-1."""
    with catalog.write() as session:
        session.add_all(models.Host(name=name) for name in ("alpha", "beta"))
        session.flush()
        for host, names in (("alpha", ("web-1", "web-2", "both")), ("beta", ("db-1", "both"))):
            session.add_all(
                models.Domain(
                    host=host, uuid=f"{host}-{name}", name=name, state="running", memory_bytes=1,
                    persistent=True, has_managed_save=False, tags=[], seen_at=T0,
                )
                for name in names
            )  # fmt: skip
        session.add(
            models.RestorePoint(
                host="beta", path="/s/p", domain_name="db-1", domain_uuid="beta-db-1", size_bytes=1,
                taken_at=T0,
            )
        )  # fmt: skip


def make_unheard_app(settings: Settings) -> Celery:
    """Return an application that tries its broker once: nobody is there."""
    app = make_app(settings)
    app.conf.task_publish_retry = False
    app.conf.broker_transport_options |= {"max_retries": 1}
    return app
