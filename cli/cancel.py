"""fleetsave jobs cancel: stop jobs wherever they stand, and say what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cli.command import Command
from cli.finished import PARTLY_DONE
from cli.options import host_option
from cli.output import plain_view, print_json
from engine.errors import EngineError, WrongStateError
from tasks.errors import UsageError
from tasks.states import UNFINISHED, JobState

if TYPE_CHECKING:
    from cli.control import Control
    from tasks.cancel import Cancellation
    from tasks.catalog import JobView


@click.command(
    cls=Command,
    examples=(
        "fleetsave jobs cancel 3f2a91 77b0c2",
        "fleetsave jobs cancel --all --host alpha",
        "fleetsave jobs cancel 3f2a91 --no-wait               ask, and do not wait for the guest to be back",
    ),
)
@click.argument("job_ids", metavar="[JOB]...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Every job of the host that has not ended.")
@host_option
@click.option(
    "--wait/--no-wait", "is_waiting", default=True, help="Wait until each has ended (default), or only ask."
)
def cancel(
    *, job_ids: tuple[str, ...], is_all: bool, host: str | None, is_waiting: bool, as_json: bool
) -> int:
    """Stop jobs, named by their ids or the beginnings of them.

    A job has ended as cancelled once its guest is as it was before and nothing is left of the image. One
    past its point of no return finishes instead, and this says so.

    \b
    Exit codes: 0 cancelled (or finished before it could be), 3 some were not, 33 all had ended
    before, 40 Redis does not answer: the wish is written down, the hosts do not know of it yet.
    """  # noqa: D301 - \b is click's mark for a paragraph that is not wrapped
    from cli.control import open_control
    from tasks.cancel import Answer, cancel_jobs

    _check_choice(job_ids, is_all=is_all, host=host)
    with open_control() as control:
        control.catch_up_if_possible()
        wanted = _find_wanted(control, job_ids, host)
        done = cancel_jobs(
            control.catalog, control.redis, [job.job_id for job in wanted], now=datetime.now(UTC)
        )
        asked = [one.job for one in done if one.answer is Answer.ASKED]
        ended = _wait(control, asked) if is_waiting else {}
    finished = [(one, ended.get(one.job.job_id, one.job)) for one in done]
    if as_json:
        print_json({"jobs": [_document(one, job) for one, job in finished]})
    else:
        _print(finished)
    return _exit_code([_code(one, job) for one, job in finished])


def _check_choice(job_ids: Sequence[str], *, is_all: bool, host: str | None) -> None:
    """Refuse a choice of jobs that is none, or says two things.

    Raises:
        UsageError: it is so.
    """
    if is_all and host is None:
        raise UsageError(
            "--all", "of every host at once", "--host with it", "fleetsave hosts list shows them"
        )
    if is_all and job_ids:
        raise UsageError("--all", "jobs are named as well", "one of them")
    if not is_all and host is not None:
        raise UsageError("--host", "without --all", "both, or the ids of jobs")
    if not is_all and not job_ids:
        raise UsageError("JOB", "no job is named", "ids, or --all with --host")


def _find_wanted(control: Control, job_ids: Sequence[str], host: str | None) -> list[JobView]:
    """Return the jobs that are meant, each once."""
    from cli.jobs import find_job
    from tasks.catalog import queries

    if host is not None:
        return queries.list_jobs(control.catalog, states=UNFINISHED, host=host)[::-1]
    found = [find_job(control, job_id) for job_id in dict.fromkeys(job_ids)]
    return list({job.job_id: job for job in found}.values())


def _wait(control: Control, jobs: Sequence[JobView]) -> dict[str, JobView]:
    """Follow jobs whose hosts were asked to their ends.

    Raises:
        CancelledError: somebody interrupted the waiting; the wish stands.
    """
    from cli.display import SilentDisplay
    from cli.fleet import follow
    from tasks.catalog import queries

    if not jobs:
        return {}
    follow(control, jobs, SilentDisplay())
    ids = [job.job_id for job in jobs]
    return {job.job_id: job for job in queries.find_jobs(control.catalog, ids)}


def _describe_end(one: Cancellation, job: JobView) -> EngineError | None:
    """Return why the wish did not come true; None: it did, or the job finished in time."""
    from tasks.cancel import Answer

    where = f"{job.label} (job {job.job_id})"
    if one.answer is Answer.WAS_FINAL:
        return WrongStateError(where, f"{job.op} had ended before: {job.state}", "a job that has not ended")
    if job.state in {JobState.FAILED, JobState.LOST}:
        return EngineError(where, f"{job.op} has {job.state}: {job.reason}", "cancelled")
    return None


def _code(one: Cancellation, job: JobView) -> int:
    error = _describe_end(one, job)
    if error is None or isinstance(error, WrongStateError):
        return 0 if error is None else error.exit_code
    return int((job.error or {}).get("code", error.exit_code))


def _exit_code(codes: Sequence[int]) -> int:
    """Return 0 if all went well, the one code that all ended with, else 3."""
    found = set(codes)
    return PARTLY_DONE if len(found) > 1 else next(iter(found), 0)


def _document(one: Cancellation, job: JobView) -> dict[str, Any]:
    """Return the JSON object of one job."""
    error = _describe_end(one, job)
    return {
        "answer": str(one.answer),
        "job": plain_view(job),
        **({} if error is None else {"error": error.to_dict()}),
    }


def _print(finished: Sequence[tuple[Cancellation, JobView]]) -> None:
    """Print one line for each job, those that could not be cancelled on stderr."""
    if not finished:
        click.echo("no unfinished jobs")
    for one, job in finished:
        if (error := _describe_end(one, job)) is not None:
            click.echo(f"fleetsave: {error}", err=True)
        elif job.state is JobState.SUCCEEDED:
            click.echo(f"{job.label}: {job.op} on {job.host} finished before it could be cancelled")
        elif job.is_final:
            click.echo(f"{job.label}: {job.op} on {job.host} is cancelled: {job.reason}")
        else:
            click.echo(f"{job.label}: {job.op} on {job.host} was asked to stop; it is {job.state}")
