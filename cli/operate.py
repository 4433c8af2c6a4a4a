"""Carry an order out, here or on the fleet, and report what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import click

from cli.display import open_display
from cli.failure import format_failure, printable
from cli.finished import COLUMNS, NUMBERS, Finished, exit_code_of
from cli.order import Order
from cli.output import name_point, open_console, print_json, print_table

#: Operations whose images fleetsave restore takes.
_IMAGE_MAKING: Final = frozenset({"save", "checkpoint"})


def operate(
    order: Order, *, dxml: str | None = None, rules: str | None = None, is_dry_run: bool = False
) -> int:
    """Do what the order says (or find out what stands in its way), print it, and return the exit code.

    Args:
        order: what to do.
        dxml: domain XML for the restore, whole text.
        rules: in its place, the rules that make it.
        is_dry_run: only look.

    Raises:
        EngineError: nothing was begun, or nobody waits for it any more; the sentence says which.
    """
    texts = {"dxml": dxml, "rules": rules}
    if given := {key: text for key, text in texts.items() if text is not None}:
        order = replace(order, params={**order.params, **given})
    if is_dry_run:
        from cli.dryrun import try_out

        return try_out(order)
    display = open_display(is_silent=order.as_json or order.is_quiet)
    if order.is_local:
        from cli.local import run_here

        with run_here(order, display) as finished:
            report(order, finished, is_told=display.tells_endings)
    else:
        from cli.fleet import run_on_fleet

        with display:
            finished = run_on_fleet(order, display)
        report(order, finished, is_told=display.tells_endings)
    return exit_code_of(finished)


def report(order: Order, finished: Sequence[Finished], *, is_told: bool) -> None:
    """Print what became of the order, in the form it asked for."""
    if order.as_json:
        report_json(finished, is_single=order.is_single)
    elif not order.is_waiting:
        report_queued(finished, is_quiet=order.is_quiet)
    else:
        report_text(finished, is_told=is_told, is_quiet=order.is_quiet)


def report_json(finished: Sequence[Finished], *, is_single: bool) -> None:
    """Print one object for one domain, a list of them under "results" for several."""
    documents = [one.to_dict() for one in finished]
    print_json(documents[0] if is_single and documents else {"results": documents})


def report_queued(finished: Sequence[Finished], *, is_quiet: bool) -> None:
    """Print the id of each job on stdout, then one line for each domain that got none on stderr."""
    if not is_quiet:
        for one in finished:
            if one.job_id is not None:
                click.echo(one.job_id)
    _report_failures(finished)


def report_text(finished: Sequence[Finished], *, is_told: bool, is_quiet: bool) -> None:
    """Print the endings that were not told yet on stdout, then each warning and each failure on stderr."""
    if not is_told and not is_quiet:
        if len(finished) > 1:
            print_table(COLUMNS, [one.row() for one in finished], right=NUMBERS)
            click.echo()
            _report_points(finished)
        elif finished and finished[0].error is None:
            open_console().print(finished[0].sentence())
            _report_points(finished)
    if not is_quiet:
        _report_warnings(finished)
    _report_failures(finished)


def _report_points(finished: Sequence[Finished]) -> None:
    """Print the names that fleetsave restore takes, or the paths of images."""
    rows = [
        (one.label, one.host, name_point(one.path))
        for one in finished
        if one.op in _IMAGE_MAKING and one.path
    ]
    if rows:
        print_table(("domain", "host", "restore point"), rows)


def _report_warnings(finished: Sequence[Finished]) -> None:
    for one in finished:
        for warning in (one.result or {}).get("warnings", ()):
            click.echo(f"fleetsave: warning: {printable(f'{one.label}: {warning}')}", err=True)


def _report_failures(finished: Sequence[Finished]) -> None:
    for one in finished:
        if one.error is not None:
            click.echo(format_failure(one.error), err=True)
