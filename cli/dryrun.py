"""Find out what stands in the way of an order, and what it would take; touch no guest."""

from __future__ import annotations

from typing import Any

from cli.findings import exit_code_of_findings, print_findings
from cli.finished import PARTLY_DONE
from cli.order import Order
from cli.output import format_bytes, format_seconds, open_console, print_json
from engine.errors import NotSupportedError
from engine.findings import Finding


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
    documents, findings = _survey(order)
    if order.as_json:
        print_json(documents[0] if order.is_single else {"results": documents})
    elif not order.is_quiet:
        for document, found in zip(documents, findings, strict=True):
            _print_survey(order, document, found)
    codes = {exit_code_of_findings(found) for found in findings}
    return codes.pop() if len(codes) == 1 else PARTLY_DONE


def _survey(order: Order) -> tuple[list[dict[str, Any]], list[list[Finding]]]:
    """Look at what the order is about, one thing after the other; return the documents and the findings."""
    from cli.local import open_engine

    params = order.params
    wish = {key: params.get(key) for key in ("dxml", "rules")}
    with open_engine(order) as engine:
        if order.op == "restore":
            survey = engine.survey_restore(
                params["path"],
                **wish,
                new_name=params.get("new_name"),
                bypass_cache=params["bypass_cache"],
                force_stale_disks=bool(params.get("force_stale_disks")),
            )
            return [{"op": order.op, **survey.to_dict(), "path": params["path"]}], [survey.findings]
        surveys = [
            engine.survey_save(
                domain,
                params.get("to"),
                **wish,
                bypass_cache=params["bypass_cache"],
                live=order.op == "checkpoint",
            )
            for domain in order.domains
        ]
    documents = [
        {"op": order.op, **survey.to_dict(), "domain": domain}
        for domain, survey in zip(order.domains, surveys, strict=True)
    ]
    return documents, [survey.findings for survey in surveys]


def _print_survey(order: Order, document: dict[str, Any], findings: list[Finding]) -> None:
    """Print one domain's findings, changes of its dxml and the estimate."""
    console = open_console()
    subject = document["path"] if order.op == "restore" else document["domain"]
    console.print(f"{order.op} of {subject}, tried out: nothing was touched")
    print_findings(findings)
    for change in document["dxml_changes"]:
        console.print(f"dxml: {change['xpath']}: {change['old']} -> {change['new']}")
    if any(finding.error for finding in findings):
        console.print("estimate: none while something stands in the way")
    else:
        console.print(_estimate(order, document))


def _estimate(order: Order, document: dict[str, Any]) -> str:
    estimate = document["estimate"]
    if order.op == "restore":
        return f"estimate: {format_bytes(estimate['bytes'])} to be read for {document['domain']}"
    return (
        f"estimate: at most {format_bytes(estimate['bytes'])} into {document['path']}, "
        f"{format_seconds(estimate['seconds'])}, "
        f"guest stands still for {format_seconds(estimate['guest_paused_seconds'])}"
    )
