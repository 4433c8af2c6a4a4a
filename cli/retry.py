"""fleetsave jobs retry: do again what failed, as a new job that names the old one."""

from __future__ import annotations

import click

from cli.command import Command


@click.command(
    cls=Command,
    examples=("fleetsave jobs retry 3f2a91", "fleetsave jobs retry 3f2a91 --no-wait"),
)
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.option(
    "--wait/--no-wait",
    "is_waiting",
    default=True,
    help="Wait until it is done (default), or print the new job's id and leave.",
)
def retry(*, job_ids: tuple[str, ...], is_waiting: bool, as_json: bool) -> int:
    """Submit jobs anew that failed, were cancelled or lost.

    The old jobs stay as they are; the new ones name them. Restores, starts and managed saves are not done
    again unseen: look at the guest and give the order yourself.
    """
    from cli.control import open_control
    from cli.display import open_display
    from cli.finished import exit_code_of, of_job
    from cli.fleet import follow
    from cli.jobs import find_job
    from cli.operate import report_json, report_queued, report_text
    from tasks.app import make_app
    from tasks.retry import retry_job

    with open_control() as control:
        control.catch_up_if_possible()
        app = make_app(control.settings)
        old = [find_job(control, job_id) for job_id in dict.fromkeys(job_ids)]
        made = [retry_job(control.catalog, app, job) for job in old]
        display = open_display(is_silent=as_json or not is_waiting)
        finished = [of_job(job) for job in made]
        if is_waiting:
            with display:
                finished = follow(control, made, display)
    if as_json:
        report_json(finished, is_single=len(finished) == 1)
    elif is_waiting:
        report_text(finished, is_told=display.tells_endings, is_quiet=False)
    else:
        report_queued(finished, is_quiet=False)
    return exit_code_of(finished)
