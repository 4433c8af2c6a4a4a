"""Find out what stands in the way of an order, and what it would take; touch no guest."""

from __future__ import annotations

from typing import Any

from cli.findings import exit_code_of_findings, print_findings
from cli.finished import PARTLY_DONE
from cli.order import Order
from cli.output import format_bytes, format_seconds, open_console, print_json
from engine.errors import NotSupportedError
from engine.preflight import SaveSurvey


def try_out(order: Order) -> int:
    """Print findings and estimate for each domain; return the exit code of what stands in the way.

    Raises:
        NotSupportedError: the order is for another host, or for a worker.
        EngineError: the hypervisor cannot be reached.
    """
    if not order.is_local:
        raise NotSupportedError(
            "--dry-run", "a worker runs jobs, it does not try them out", "--local",
            "run it on the domain's host with --local",
        )  # fmt: skip
    from cli.local import open_engine

    params = order.params
    with open_engine(order) as engine:
        surveys = [
            engine.survey_save(
                domain, params.get("to"), params.get("dxml"), bypass_cache=params["bypass_cache"],
                live=order.op == "checkpoint",
            )
            for domain in order.domains
        ]  # fmt: skip
    documents = [
        {"op": order.op, **survey.to_dict(), "domain": domain}
        for domain, survey in zip(order.domains, surveys, strict=True)
    ]
    if order.as_json:
        print_json(documents[0] if order.is_single else {"results": documents})
    elif not order.is_quiet:
        for document, survey in zip(documents, surveys, strict=True):
            _print_survey(order, document, survey)
    codes = {exit_code_of_findings(survey.findings) for survey in surveys}
    return codes.pop() if len(codes) == 1 else PARTLY_DONE


def _print_survey(order: Order, document: dict[str, Any], survey: SaveSurvey) -> None:
    """Print one domain's findings, changes of its dxml and the estimate."""
    console = open_console()
    console.print(f"{order.op} of {document['domain']}, tried out: nothing was touched")
    print_findings(survey.findings)
    for change in survey.dxml_changes:
        console.print(f"dxml: {change.xpath}: {change.old} -> {change.new}")
    estimate = document["estimate"]
    if survey.plan is None:
        console.print("estimate: none while something stands in the way")
        return
    console.print(
        f"estimate: at most {format_bytes(estimate['bytes'])} into {document['path']}, "
        f"{format_seconds(estimate['seconds'])}, "
        f"guest stands still for {format_seconds(estimate['guest_paused_seconds'])}"
    )
