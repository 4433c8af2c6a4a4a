"""Let Celery read a queue in this thread until a signal ends it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning

from tasks.errors import RefusedJobError


def serve_queue(
    app: Celery,
    *,
    name: str,
    concurrency: int,
    on_ready: Callable[[], None],
    on_shutdown: Callable[[], None],
    on_garbage: Callable[[RefusedJobError], None],
) -> int:
    """Answer messages until SIGTERM or SIGINT, finish what was begun, return the exit status.

    Args:
        app: of `tasks.app`, its tasks registered.
        name: whose worker it is.
        concurrency: messages answered at a time.
        on_ready: called when it reads.
        on_shutdown: called when it is told to stop.
        on_garbage: told of each message that is no task of ours: another content type, another name, no JSON.
    """
    # At each lost connection Celery would announce a change of its own that concerns late acks only.
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    shutdowns: list[str] = []

    def say_ready(**_: object) -> None:
        on_ready()

    def note_shutdown(how: str, **_: object) -> None:
        shutdowns.append(how)
        on_shutdown()

    def refuse(exc: BaseException | None = None, name: str | None = None, **_: object) -> None:
        found = f"unknown task {name!r}" if name else f"unreadable: {exc or 'unknown format'}"
        on_garbage(RefusedJobError("message", found[:200], "a task of ours, in JSON", reason="malformed"))

    # Celery keeps receivers by weak reference; it would otherwise set up logging of its own.
    receivers = (
        (signals.setup_logging, _keep_logging),
        (signals.worker_ready, say_ready),
        (signals.worker_shutting_down, note_shutdown),
        (signals.task_rejected, refuse),
        (signals.task_unknown, refuse),
    )
    for signal, receiver in receivers:
        signal.connect(receiver)
    try:
        worker: Any = app.Worker(
            hostname=f"fleetsave@{name}",
            pool="threads",
            concurrency=concurrency,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
    finally:
        for signal, receiver in receivers:
            signal.disconnect(receiver)
    # Celery calls Ctrl-C a failure even where it waited for every job.
    return 0 if shutdowns == ["Warm"] else int(worker.exitcode or 0)


def _keep_logging(**_: object) -> None:
    """Leave logging as it is."""
