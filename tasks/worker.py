"""Run a host's worker: Celery and everything beside it, in one process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from celery import Celery, bootsteps, signals
from celery.exceptions import CPendingDeprecationWarning

from tasks.app import make_app
from tasks.config import Settings
from tasks.host import HostWorker
from tasks.inventory import ListDomains
from tasks.jobs import register_jobs
from tasks.logs import configure_logging
from tasks.supervisor import ENGINE_COMMAND

_log: Final = structlog.get_logger(__name__)


def run_worker(
    settings: Settings,
    *,
    engine_command: Sequence[str] = ENGINE_COMMAND,
    list_domains: ListDomains | None = None,
) -> int:
    """Answer this host's doorbells until SIGTERM or SIGINT; return the exit status.

    The signal is a warm shutdown: no new doorbell is taken, running jobs are finished. A worker that is
    killed instead leaves its engines running, and the next one takes them up.

    Args:
        settings: broker and host.
        engine_command: what to run as the engine.
        list_domains: how to see the host's domains; default: the engine's.

    Raises:
        StorageError: a directory cannot be made or written.
        UsageError: another worker uses the same state directory, or the metrics port is taken.
    """
    configure_logging()
    # At each lost connection Celery would announce a change of its own that concerns late acks only.
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    # Journal and event files hold domain XML, which may hold passwords.
    os.umask(0o077)
    if list_domains is None:
        from engine import list_domains as ask_engine

        list_domains = ask_engine
    with HostWorker(settings, engine_command=engine_command, list_domains=list_domains) as host:
        status = _run_celery(settings, host)
    _log.info("worker stopped", host=settings.host.name, status=status)
    return status


def _run_celery(settings: Settings, host: HostWorker) -> int:
    """Run Celery's worker in this thread until it is told to stop."""
    app = make_app(settings, answers=True)
    register_jobs(app, host.answer_doorbell)
    _watch_polls(app, host.metrics.polled)

    def say_ready(**_: object) -> None:
        _log.info(
            "worker ready",
            host=settings.host.name,
            pid=os.getpid(),
            metrics_port=host.metrics_port,
            parallel=settings.host.parallel,
        )

    shutdowns: list[str] = []

    def note_shutdown(how: str, **_: object) -> None:
        shutdowns.append(how)
        host.stop_taking()

    # Celery would otherwise set up logging of its own. It keeps these receivers by weak reference.
    signals.setup_logging.connect(_keep_logging)
    signals.worker_ready.connect(say_ready)
    signals.worker_shutting_down.connect(note_shutdown)
    worker: Any = app.Worker(
        hostname=f"fleetsave@{settings.host.name}",
        pool="threads",
        # It only hears: what a doorbell speaks of waits for its turn in the journal and has its own thread.
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    # Celery calls Ctrl-C a failure even where it waited for every job.
    return 0 if shutdowns == ["Warm"] else int(worker.exitcode or 0)


def _keep_logging(**_: object) -> None:
    """Leave logging as it is."""


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
