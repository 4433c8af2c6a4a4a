"""Submit an order as jobs, one for each domain, and follow them to their ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from celery import Celery

from cli.control import Control, open_control
from cli.display import Display
from cli.finished import Finished, of_job
from cli.order import Order, absolute_path
from engine.errors import CancelledError, EngineError
from tasks.app import make_app
from tasks.catalog import Catalog, JobView, queries
from tasks.config import default_params
from tasks.errors import BrokerError, UsageError
from tasks.submit import DomainRef, submit
from tasks.wait import wait_jobs


def run_on_fleet(order: Order, display: Display) -> list[Finished]:
    """Submit the jobs and, unless the order says otherwise, wait for them; one for each domain, in order.

    A domain that no job can be made for does not stop the rest.

    Raises:
        BrokerError: Redis does not answer: the jobs wait as queued and the sentence names them.
        EngineError: no job was made; or, for an order of one domain, why not.
        CancelledError: somebody interrupted the waiting; the jobs go on.
    """
    with open_control() as control:
        refs, params = _address(order, control)
        submitted = _submit_each(control, order, refs, params)
        jobs = [one for one in submitted if isinstance(one, JobView)]
        ended: dict[str, Finished] = {}
        if order.is_waiting:
            ended = {one.job_id or "": one for one in follow(control, jobs, display)}
        finished: list[Finished] = []
        for one in submitted:
            if isinstance(one, Finished):
                finished.append(one)
            else:
                finished.append(ended.get(one.job_id) or of_job(one))
        return finished


def follow(control: Control, jobs: Sequence[JobView], display: Display) -> list[Finished]:
    """Show jobs while they run; return what became of each, in the order given.

    Raises:
        CancelledError: somebody interrupted the waiting; the jobs go on.
    """
    ids = [job.job_id for job in jobs]
    ended: dict[str, Finished] = {}
    try:
        for job in jobs:
            display.begin(job.job_id, op=job.op, label=job.label, host=job.host, job_id=job.job_id)
        for job in wait_jobs(control.catalog, control.redis, ids, app=make_app(control.settings)):
            note = f"{job.state} {job.step or ''}".strip()
            display.advance(job.job_id, done=job.bytes_done or 0, total=job.bytes_total, note=note)
            if job.is_final:
                ended[job.job_id] = of_job(job)
                display.end(job.job_id, ended[job.job_id])
    except KeyboardInterrupt as error:
        left = [job_id[:12] for job_id in ids if job_id not in ended]
        raise CancelledError(
            "", f"interrupted: nobody waits any more, {len(left)} jobs go on",
            hint=f"fleetsave jobs watch {' '.join(left)}",
        ) from error  # fmt: skip
    return [ended[job_id] for job_id in ids if job_id in ended]


def find_point(catalog: Catalog, text: str, host: str | None) -> tuple[str, str | None]:
    """Return the path and host of what restore was given: a known restore point's name, or a path.

    Raises:
        UsageError: several hosts have a restore point of that name.
    """
    if "/" in text:
        return absolute_path(text), host
    named = [
        point
        for point in queries.list_restore_points(catalog, host=host)
        if PurePath(point.path).name == text
    ]
    if len({(point.host, point.path) for point in named}) > 1:
        hosts = ", ".join(sorted({point.host for point in named}))
        raise UsageError(f"restore point {text}", f"it is on {hosts}", "one host", "choose with --host")
    if named:
        return named[0].path, named[0].host
    return absolute_path(text), host


def _address(order: Order, control: Control) -> tuple[list[DomainRef], dict[str, Any]]:
    """Return whom the jobs are for and what they carry: only what was set, paths absolute."""
    params = {key: value for key, value in order.params.items() if value is not False} | order.job_params
    if "to" in params:
        params["to"] = absolute_path(params["to"])
    if order.op != "restore":
        return [DomainRef(domain, order.host) for domain in order.domains], params
    _catch_up(control)
    params["path"], host = find_point(control.catalog, params["path"], order.host)
    return [DomainRef(None, host)], params


def _catch_up(control: Control) -> BrokerError | None:
    """Bring the catalog up to date; return why that could not be: rows can be made all the same."""
    try:
        control.catch_up()
    except BrokerError as error:
        return error
    return None


def _submit_each(
    control: Control, order: Order, refs: Sequence[DomainRef], params: dict[str, Any]
) -> list[JobView | Finished]:
    """Make a job for each domain, in one transaction if all can be, else for those that can."""
    outage = _catch_up(control)
    app = make_app(control.settings)
    params = default_params(control.settings, order.op) | params
    try:
        return [*submit(control.catalog, app, op=order.op, domains=refs, params=params)]
    except BrokerError:
        raise
    except EngineError as error:
        if outage is not None:
            # The catalog may only not know yet; what is wrong is that nobody could tell it.
            raise outage from error
        if len(refs) == 1:
            raise
    return _submit_one_by_one(control, app, order, refs, params)


def _submit_one_by_one(
    control: Control, app: Celery, order: Order, refs: Sequence[DomainRef], params: dict[str, Any]
) -> list[JobView | Finished]:
    """Make a job for each domain that one can be made for.

    Raises:
        BrokerError: Redis went away meanwhile; `job_ids` are the jobs that wait.
    """
    submitted: list[JobView | Finished] = []
    waiting: list[str] = []
    outage: BrokerError | None = None
    for ref in refs:
        try:
            submitted += submit(control.catalog, app, op=order.op, domains=[ref], params=params)
        except BrokerError as error:
            waiting += error.job_ids
            outage = error
        except EngineError as error:
            failed = Finished(
                op=order.op, label=ref.domain or "?", host=ref.host or "-", error=error.to_dict()
            )
            submitted.append(failed)
    if outage is not None:
        raise BrokerError(outage.where, outage.found, outage.wanted, outage.hint, job_ids=waiting) from outage
    return submitted
