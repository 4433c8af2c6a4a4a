"""Say again and again what this host is and which domains it has."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from engine.api import DomainSummary
from engine.errors import EngineError
from tasks.config import HostSettings
from tasks.host_event import EventKind, HostEvent
from tasks.metrics import WorkerMetrics

#: Lists the domains behind a libvirt URI; raises EngineError where libvirt does not answer.
ListDomains = Callable[[str], Sequence[DomainSummary]]

#: Seconds after which the list of domains is sent although it has not changed: a new catalog needs it.
_REPEAT_SECONDS: Final = 600.0

_log: Final = structlog.get_logger(__name__)


class Inventory(threading.Thread):
    """Looks at the hypervisor at once and then at intervals, and publishes what it saw.

    Args:
        settings: of this host.
        publish: takes each event; `EventSender.publish_inventory`.
        metrics: told whether libvirt answered.
        list_domains: `engine.list_domains`.
        is_draining: tells whether the host takes no more jobs.
        tags: domain name -> tags beside those that the domain itself carries.
        version: of fleetsave.
    """

    def __init__(
        self,
        settings: HostSettings,
        publish: Callable[[HostEvent], None],
        metrics: WorkerMetrics,
        *,
        list_domains: ListDomains,
        tags: Mapping[str, Sequence[str]],
        version: str,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        # A daemon: a libvirt that hangs must not keep the worker from ending.
        super().__init__(name="inventory", daemon=True)
        self._settings = settings
        self._publish = publish
        self._metrics = metrics
        self._list_domains = list_domains
        self._is_draining = is_draining
        self._tags = tags
        self._version = version
        self._stopping = threading.Event()
        self._sent: list[dict[str, Any]] | None = None
        self._sent_at = 0.0

    def run(self) -> None:
        """Look and publish until told to stop."""
        while True:
            self.look()
            if self._stopping.wait(self._settings.inventory_seconds):
                return

    def look(self) -> None:
        """Look once and publish; the list of domains only where it changed, or was not sent for long."""
        domains = self._look_at_domains()
        self._metrics.libvirt_up.set(domains is not None)
        is_due = domains != self._sent or time.monotonic() - self._sent_at >= _REPEAT_SECONDS
        body = {"facts": self._facts(is_up=domains is not None), "domains": domains if is_due else None}
        self._publish(
            HostEvent(host=self._settings.name, kind=EventKind.INVENTORY, at=datetime.now(UTC), body=body)
        )
        if domains is not None and is_due:
            self._sent, self._sent_at = domains, time.monotonic()

    def stop(self) -> None:
        """Tell the thread to end; it may still hang in libvirt, and nobody waits for it."""
        self._stopping.set()

    def _look_at_domains(self) -> list[dict[str, Any]] | None:
        """Return the domains as JSON; None: libvirt did not say."""
        try:
            summaries = self._list_domains(self._settings.uri)
        except EngineError as error:
            _log.warning("libvirt does not answer", uri=self._settings.uri, error=str(error))
            return None
        return [
            {
                "uuid": domain.uuid,
                "name": domain.name,
                "state": domain.state,
                "memory_bytes": domain.memory_bytes,
                "persistent": domain.persistent,
                "has_managed_save": domain.has_managed_save,
                "tags": sorted({*domain.tags, *self._tags.get(domain.name, ())}),
            }
            for domain in summaries
        ]

    def _facts(self, *, is_up: bool) -> dict[str, Any]:
        """Return what the host is; versions of libvirt and QEMU are for the engine to tell one day."""
        store = self._settings.store
        try:
            usage = shutil.disk_usage(store) if store is not None else None
        except OSError:
            usage = None
        return {
            "uri": self._settings.uri,
            "worker_version": self._version,
            "libvirt_version": None,
            "qemu_version": None,
            "store": str(store) if store is not None else None,
            "store_free_bytes": usage.free if usage else None,
            "store_used_bytes": usage.used if usage else None,
            "libvirt_up": is_up,
            "draining": self._is_draining(),
        }
