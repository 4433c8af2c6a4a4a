"""Run a host's worker: Celery and everything beside it, in one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from celery import Celery, bootsteps

from tasks.app import make_app
from tasks.config import Settings
from tasks.host import HostWorker
from tasks.inventory import DescribeHost, ListDomains
from tasks.jobs import register_jobs
from tasks.logs import configure_logging
from tasks.serving import serve_queue
from tasks.supervisor import ENGINE_COMMAND

_log: Final = structlog.get_logger(__name__)


def run_worker(
    settings: Settings,
    *,
    engine_command: Sequence[str] = ENGINE_COMMAND,
    list_domains: ListDomains | None = None,
    describe_host: DescribeHost | None = None,
) -> int:
    """Answer this host's doorbells until SIGTERM or SIGINT; return the exit status.

    The signal is a warm shutdown: no new doorbell is taken, running jobs are finished. A worker that is
    killed instead leaves its engines running, and the next one takes them up.

    Args:
        settings: broker and host.
        engine_command: what to run as the engine.
        list_domains: how to see the host's domains; default: the engine's.
        describe_host: how to see what guests it can run; default: the engine's.

    Raises:
        ConfigError: no key is trusted.
        StorageError: a directory cannot be made or written.
        UsageError: another worker uses the same state directory, or the metrics port is taken.
    """
    configure_logging()
    # Journal and event files hold domain XML, which may hold passwords.
    os.umask(0o077)
    # Heavy: libvirt is needed only where nobody stands in for it.
    if list_domains is None:
        from engine import list_domains as ask_engine

        list_domains = ask_engine
    if describe_host is None:
        from engine import host_capabilities as ask_what_runs

        describe_host = ask_what_runs
    with HostWorker(
        settings, engine_command=engine_command, list_domains=list_domains, describe_host=describe_host
    ) as host:
        status = _run_celery(settings, host)
    _log.info("worker stopped", host=settings.host.name, status=status)
    return status


def _run_celery(settings: Settings, host: HostWorker) -> int:
    """Run Celery's worker in this thread until it is told to stop."""
    app = make_app(settings, answers=True)
    register_jobs(app, host.answer_doorbell, host.answer_question)
    _watch_polls(app, host.metrics.polled)

    def say_ready() -> None:
        _log.info(
            "worker ready",
            host=settings.host.name,
            pid=os.getpid(),
            metrics_port=host.metrics_port,
            parallel=settings.host.parallel,
        )

    return serve_queue(
        app,
        name=settings.host.name,
        # It only hears: what a doorbell speaks of waits for its turn in the journal and has its own thread.
        concurrency=1,
        on_ready=say_ready,
        on_shutdown=host.stop_taking,
        on_garbage=host.refuse_doorbell,
    )


def _watch_polls(app: Celery, polled: Callable[[], None]) -> None:
    """Have each turn of the loop that asks Redis for doorbells noted.

    The loop turns only while the broker is connected: a worker that lives but hears nothing is seen by
    the time standing still.
    """

    class PollStep(bootsteps.StartStopStep):
        """Joins the consumer's event loop each time it is set up anew."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            """Join the loop."""
            parent.hub.on_tick.add(polled)

    app.steps["consumer"].add(PollStep)
