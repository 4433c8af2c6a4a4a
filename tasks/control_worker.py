"""Run the control plane's own Celery worker: it takes operators' submissions from the queue "control"."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from tasks.app import make_app, make_control_app
from tasks.catalog import open_catalog
from tasks.config import Settings
from tasks.desk import SubmissionDesk
from tasks.serving import serve_queue
from tasks.submission import SUBMIT_TASK

_log: Final = structlog.get_logger(__name__)


def run_control_worker(
    settings: Settings, *, registry: CollectorRegistry, on_shutdown: Callable[[], None] = lambda: None
) -> int:
    """Answer submissions until SIGTERM or SIGINT; return the exit status.

    Runs in the main thread, which gets the signals; whatever else the process does runs in others. Logging is
    the caller's to configure. Without operators in the settings every submission is refused.

    Args:
        settings: broker, catalog, operators and roles.
        registry: for fleetsave_submissions_total.
        on_shutdown: called when the signal has come, before what was begun is finished.

    Raises:
        ConfigError: the settings, or the signing key's file, cannot be used.
        BrokerError: the catalog cannot be opened.
    """
    ringing = make_app(settings)
    answering = make_control_app(settings)
    try:
        with open_catalog(settings.catalog_url) as catalog:
            desk = SubmissionDesk(settings, catalog=catalog, app=ringing, registry=registry)

            @answering.task(name=SUBMIT_TASK, ignore_result=True, typing=False)
            def submit(submission: object = None, signature: object = None, **_later: object) -> None:
                """Hand the submission over."""
                desk.answer(submission, signature)

            return serve_queue(
                answering,
                name="control",
                # One after the other: two of them might want the same domains.
                concurrency=1,
                on_ready=lambda: _log.info("control worker ready", pid=os.getpid()),
                on_shutdown=on_shutdown,
                on_garbage=desk.refuse_garbage,
            )
    finally:
        ringing.close()
        answering.close()
