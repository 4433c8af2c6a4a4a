"""fleetsave jobs: what ran on the fleet, what runs, and what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from cli.command import Command, Group
from cli.options import host_option
from cli.output import (
    NOTHING,
    format_age,
    format_bytes,
    format_time,
    plain_view,
    print_json,
    print_table,
)
from engine.errors import EngineError
from tasks.errors import UsageError
from tasks.states import UNFINISHED, JobState

if TYPE_CHECKING:
    from cli.control import Control
    from tasks.catalog import EventView, JobView

#: Digits of a job's id that tables show; any unique beginning names a job.
ID_SHOWN: Final = 12


@click.group(
    cls=Group,
    lazy={
        "list": "cli.jobs:list_",
        "show": "cli.jobs:show",
        "watch": "cli.jobs:watch",
        "cancel": "cli.cancel:cancel",
        "retry": "cli.retry:retry",
    },
    examples=(
        "fleetsave jobs list --state failed                    what went wrong",
        "fleetsave jobs show 3f2a91                            one job and all its host said about it",
        "fleetsave jobs watch                                  follow what runs now",
        "fleetsave jobs cancel 3f2a91                          stop a job; its guest is as it was before",
        "fleetsave jobs retry 3f2a91                           do again what failed",
    ),
)
def jobs() -> None:
    """Look at jobs, follow them, stop them and do them again."""


@click.command(
    "list",
    cls=Command,
    examples=(
        "fleetsave jobs list",
        "fleetsave jobs list --state running --state queued --host alpha",
        "fleetsave jobs list --domain web-1 --limit 1 --json",
    ),
)
@click.option(
    "--state", "states", type=click.Choice([str(state) for state in JobState]), multiple=True,
    help="Only jobs in this state; may be given again.",
)  # fmt: skip
@host_option
@click.option("--domain", metavar="DOMAIN", help="Only this domain's: name or UUID.")
@click.option("--run", "run_id", metavar="ID", help="Only this run's, or this submission's over Celery.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many."
)
def list_(
    *,
    states: tuple[str, ...],
    host: str | None,
    domain: str | None,
    run_id: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    from cli.control import open_control
    from tasks.catalog import queries

    with open_control() as control:
        control.catch_up_if_possible()
        wanted = [JobState(state) for state in states]
        if run_id is not None:
            _raise_refusal(control, run_id)
        found = queries.list_jobs(
            control.catalog, states=wanted, host=host, domain=domain, run_id=run_id, limit=limit
        )
    if as_json:
        print_json({"jobs": [plain_view(job) for job in found]})
        return
    now = datetime.now(UTC)
    columns = ("job", "op", "domain", "host", "state", "bytes", "age", "reason")
    print_table(columns, [_row(job, now) for job in found], right=("bytes", "age"))


@click.command(
    cls=Command,
    examples=("fleetsave jobs show 3f2a91", "fleetsave jobs show 3f2a91 --json"),
)
@click.argument("job_id", metavar="JOB")
def show(*, job_id: str, as_json: bool) -> None:
    """Show one job, named by its id or the beginning of it, and what its host said about it."""
    from cli.control import open_control
    from tasks.catalog import queries

    with open_control() as control:
        control.catch_up_if_possible()
        job = find_job(control, job_id)
        events = queries.list_job_events(control.catalog, job.job_id)
    if as_json:
        print_json({"job": plain_view(job), "events": [plain_view(event) for event in events]})
        return
    for name, value in _facts(job):
        click.echo(f"{name:<12} {value}")
    if events:
        click.echo()
        print_table(("at", "event", "what"), [_event_row(event) for event in events])


@click.command(
    cls=Command,
    examples=("fleetsave jobs watch", "fleetsave jobs watch 3f2a91 77b0c2"),
)
@click.argument("job_ids", metavar="[JOB]...", nargs=-1)
def watch(*, job_ids: tuple[str, ...], as_json: bool) -> int:
    """Follow jobs to their ends: those named, else all that are unfinished.

    The exit code is theirs, as if fleetsave save had waited for them.
    """
    from cli.control import open_control
    from cli.display import open_display
    from cli.finished import exit_code_of
    from cli.fleet import follow
    from cli.operate import report_json, report_text
    from tasks.catalog import queries

    with open_control() as control:
        control.catch_up_if_possible()
        found = [find_job(control, job_id) for job_id in dict.fromkeys(job_ids)]
        if not job_ids:
            found = queries.list_jobs(control.catalog, states=UNFINISHED)[::-1]
        display = open_display(is_silent=as_json)
        with display:
            finished = follow(control, found, display)
    if as_json:
        report_json(finished, is_single=False)
    elif not found:
        click.echo("no unfinished jobs")
    else:
        report_text(finished, is_told=display.tells_endings, is_quiet=False)
    return exit_code_of(finished)


def _raise_refusal(control: Control, run_id: str) -> None:
    """Say why the submission of that id was refused, if it was.

    Raises:
        RefusedJobError: it was.
    """
    from tasks.catalog import queries
    from tasks.errors import RefusedJobError

    found = queries.find_submission(control.catalog, run_id)
    if found is not None and found.state == "refused":
        raise RefusedJobError(f"submission {run_id}", found.reason or "refused", reason="refused")


def find_job(control: Control, job_id: str) -> JobView:
    """Return the one job whose id begins so.

    Raises:
        UsageError: there is none, or several.
    """
    from tasks.catalog import queries

    job = queries.find_job(control.catalog, job_id)
    if job is not None:
        return job
    found = queries.find_jobs_beginning(control.catalog, job_id) if job_id else []
    if len(found) == 1:
        return found[0]
    what = "several jobs begin so" if found else "no such job"
    raise UsageError(f"job {job_id}", what, "the id of one job", "fleetsave jobs list shows them")


def _row(job: JobView, now: datetime) -> tuple[str, ...]:
    size = job.result["bytes"] if job.result else job.bytes_done
    state = str(job.state) if job.is_final or not job.step else f"{job.state} {job.step}"
    age = format_age(job.created_at, now)
    reason = job.reason or ""
    return (job.job_id[:ID_SHOWN], job.op, job.label, job.host, state, format_bytes(size), age, reason)


def _facts(job: JobView) -> list[tuple[str, str]]:
    """Return what there is to say about a job."""
    facts = [
        ("job", job.job_id),
        ("operation", job.op),
        ("domain", f"{job.label} ({job.domain_uuid})" if job.domain_uuid else job.label),
        ("host", job.host),
        ("state", str(job.state) if job.is_final or not job.step else f"{job.state}: {job.step}"),
        ("attempt", str(job.attempt)),
        ("created", format_time(job.created_at)),
        ("rung", format_time(job.rung_at)),
        ("started", format_time(job.started_at)),
        ("finished", format_time(job.finished_at)),
    ]
    if job.retry_of is not None:
        facts.append(("retry of", job.retry_of))
    if job.state is JobState.QUEUED and job.due_at is not None:
        facts.append(("due", format_time(job.due_at)))
    if job.cancel_requested_at is not None:
        facts.append(("cancel asked", format_time(job.cancel_requested_at)))
    facts += [(key, _shorten(value)) for key, value in job.params.items()]
    if job.state is not JobState.SUCCEEDED and job.reason:
        facts.append(("reason", job.reason))
    if job.error is not None:
        error = EngineError("", str(job.error.get("hint", "")))
        facts += [("exit code", str(job.error.get("code", 1))), ("hint", error.message)]
    if job.result is not None:
        from cli.finished import of_job

        facts.append(("result", of_job(job).line()))
    return [(name, value or NOTHING) for name, value in facts]


def _shorten(value: Any) -> str:
    """Return a parameter on one line; a domain XML is too long for one."""
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else f"{text[:197]}..."  # noqa: PLR2004 - about two lines of a terminal


def _event_row(event: EventView) -> tuple[str, ...]:
    what = event.body.get("step") or event.body.get("state") or ""
    reason = event.body.get("reason") or ""
    at = f"{event.at.astimezone(UTC):%H:%M:%S.%f}"[:-3]
    return at, event.kind, f"{what} {reason}".strip()
