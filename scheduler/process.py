"""Run a scheduler as a process: connections, metrics, signals around the service."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from scheduler.metrics import CatalogCollector, make_registry
from scheduler.service import SchedulerService, limits_of
from tasks.app import make_app
from tasks.broker import open_redis
from tasks.catalog import open_catalog
from tasks.config import Settings
from tasks.control_worker import run_control_worker
from tasks.errors import UsageError
from tasks.logs import configure_logging

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)

_log: Final = structlog.get_logger(__name__)


def run_scheduler(settings: Settings) -> int:
    """Run a scheduler until SIGTERM or SIGINT; return the exit status.

    Raises:
        ConfigError: the catalog's URL means nothing.
        BrokerError: the catalog cannot be opened.
        UsageError: the metrics port is taken.
    """
    configure_logging()
    with open_service(settings) as (service, registry, metrics_port):
        _log.info("scheduler ready", owner=service.owner, pid=os.getpid(), metrics_port=metrics_port)
        status = _run_with_desk(settings, service, registry) if settings.operators else _run_alone(service)
    _log.info("scheduler stopped", owner=service.owner)
    return status


def _run_alone(service: SchedulerService) -> int:
    """Run the service in this thread until a signal comes."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in _STOPPING}
    try:
        service.run(stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _run_with_desk(settings: Settings, service: SchedulerService, registry: CollectorRegistry) -> int:
    """Run the service in a thread, and in this one the Celery worker that operators submit to."""
    stop = threading.Event()
    loop = threading.Thread(target=service.run, args=(stop,), name="scheduler")
    loop.start()
    try:
        return run_control_worker(settings, registry=registry, on_shutdown=stop.set)
    finally:
        stop.set()
        loop.join()


@contextmanager
def open_service(settings: Settings) -> Iterator[tuple[SchedulerService, CollectorRegistry, int]]:
    """Open everything that a scheduler needs; yield the service, its metrics and their port."""
    with ExitStack() as closing:
        catalog = closing.enter_context(open_catalog(settings.catalog_url))
        redis = open_redis(settings.broker_url, client_name="fleetsave-scheduler")
        closing.callback(redis.close)
        app = make_app(settings)
        closing.callback(app.close)
        service = SchedulerService(settings.scheduler, catalog=catalog, redis=redis, app=app)
        collector = CatalogCollector(
            catalog,
            is_leader=lambda: service.is_leader,
            host_down=limits_of(settings.scheduler).host_down,
        )
        registry = make_registry(collector)
        address, port = settings.scheduler.metrics_address, settings.scheduler.metrics_port
        try:
            server, _ = start_http_server(port, address, registry=registry)
        except OSError as error:
            where = f"metrics on {address}:{port}"
            raise UsageError(where, str(error), "a free port", "see metrics_port in [scheduler]") from error
        closing.callback(server.server_close)
        closing.callback(server.shutdown)
        yield service, registry, server.server_port
