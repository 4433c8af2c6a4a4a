"""Tell Prometheus how the fleet's jobs stand, from the catalog at each scrape: a restart resets nothing.

Source: DESIGN.md section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks.catalog import Catalog, queries
from tasks.catalog.reconciling import count_states, find_oldest_queued
from tasks.errors import BrokerError

_log: Final = structlog.get_logger(__name__)


class CatalogCollector(Collector):
    """Reads the catalog whenever it is scraped; of a catalog that is away it says nothing.

    Args:
        catalog: of `tasks.catalog.open_catalog`.
        is_leader: whether this process leads.
        host_down: how long a host may say nothing before it counts as down.
        now: clock, aware.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        is_leader: Callable[[], bool],
        host_down: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._is_leader = is_leader
        self._host_down = host_down
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        leader = GaugeMetricFamily("fleetsave_scheduler_leader", "1 if this scheduler leads.")
        leader.add_metric([], float(self._is_leader()))
        yield leader
        try:
            yield from [self._count_jobs(), *self._look_at_hosts()]
        except BrokerError as error:
            _log.warning("catalog cannot be scraped", error=str(error))

    def _count_jobs(self) -> Metric:
        jobs = GaugeMetricFamily("fleetsave_jobs", "Jobs in each state.", labels=["state"])
        for state, count in count_states(self._catalog).items():
            jobs.add_metric([str(state)], count)
        return jobs

    def _look_at_hosts(self) -> list[Metric]:
        now = self._now()
        up = GaugeMetricFamily("fleetsave_host_up", "1 if the host reported of late.", labels=["host"])
        oldest = GaugeMetricFamily(
            "fleetsave_oldest_queued_seconds", "How long the host's oldest queued job waits.", labels=["host"]
        )
        hosts = {host.name: host.seen_at for host in queries.list_hosts(self._catalog)}
        since = find_oldest_queued(self._catalog)
        for name in sorted({*hosts, *since}):
            seen_at = hosts.get(name)
            up.add_metric([name], float(seen_at is not None and now - seen_at < self._host_down))
            waited = (now - since[name]).total_seconds() if name in since else 0.0
            oldest.add_metric([name], max(0.0, waited))
        return [up, oldest]


def make_registry(collector: CatalogCollector) -> CollectorRegistry:
    """Return a registry that holds the collector and nothing else."""
    # Registering would otherwise scrape once, to learn the names.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
