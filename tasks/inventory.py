"""Say again and again what this host is, which domains it has and what guests it can run."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from engine.domains import DomainSummary
from engine.domxml.offer import HostCapabilities
from engine.errors import EngineError
from tasks.config import HostSettings
from tasks.host_event import EventKind, HostEvent
from tasks.metrics import WorkerMetrics

#: Lists the domains behind a libvirt URI; raises EngineError where libvirt does not answer.
ListDomains = Callable[[str], Sequence[DomainSummary]]

#: Says what the host behind a libvirt URI can run; raises EngineError where it does not say.
DescribeHost = Callable[[str], HostCapabilities]

#: Seconds after which domains and capabilities are sent although nothing changed: a new catalog needs it.
_REPEAT_SECONDS: Final = 600.0
#: Seconds between two looks at what the host can run; a libvirt that is back is looked at anew at once.
_PROBE_SECONDS: Final = 900.0

_log: Final = structlog.get_logger(__name__)


class _Sent:
    """What was sent last of something long, and when."""

    def __init__(self) -> None:
        self._value: Any = None
        self._at = 0.0

    def take(self, value: Any) -> Any:
        """Return the value if it is to be sent now, None where it is as before, or not known."""
        if value is None or (value == self._value and time.monotonic() - self._at < _REPEAT_SECONDS):
            return None
        self._value, self._at = value, time.monotonic()
        return value


class Inventory(threading.Thread):
    """Looks at the hypervisor at once and then at intervals, and publishes what it saw.

    Args:
        settings: of this host.
        publish: takes each event; `EventSender.publish_inventory`.
        metrics: told whether libvirt answered.
        list_domains: `engine.list_domains`.
        describe_host: `engine.host_capabilities`.
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
        describe_host: DescribeHost,
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
        self._describe_host = describe_host
        self._is_draining = is_draining
        self._tags = tags
        self._version = version
        self._stopping = threading.Event()
        self._capabilities: HostCapabilities | None = None
        #: time.monotonic() of the last look at them; None: look at the next opportunity.
        self._probed_at: float | None = None
        self._domains = _Sent()
        self._offers = _Sent()

    def run(self) -> None:
        """Look and publish until told to stop."""
        while True:
            self.look()
            if self._stopping.wait(self._settings.inventory_seconds):
                return

    def look(self) -> None:
        """Look once and publish; what is long only where it changed, or was not sent for long."""
        domains = self._look_at_domains()
        is_up = domains is not None
        self._metrics.libvirt_up.set(is_up)
        self._look_at_capabilities(is_up=is_up)
        offer = self._capabilities.to_dict() if self._capabilities else None
        body = {
            "facts": self._facts(is_up=is_up),
            "domains": self._domains.take(domains),
            "capabilities": self._offers.take(offer),
        }
        self._publish(
            HostEvent(host=self._settings.name, kind=EventKind.INVENTORY, at=datetime.now(UTC), body=body)
        )

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

    def _look_at_capabilities(self, *, is_up: bool) -> None:
        """Bring what the host can run up to date; where it does not say, what was known stays."""
        if not is_up:
            # It may come back as another version.
            self._probed_at = None
            return
        if self._probed_at is not None and time.monotonic() - self._probed_at < _PROBE_SECONDS:
            return
        self._probed_at = time.monotonic()
        try:
            self._capabilities = self._describe_host(self._settings.uri)
        except EngineError as error:
            _log.warning("libvirt does not say what it can run", uri=self._settings.uri, error=str(error))

    def _facts(self, *, is_up: bool) -> dict[str, Any]:
        """Return what the host is."""
        store = self._settings.store
        try:
            usage = shutil.disk_usage(store) if store is not None else None
        except OSError:
            usage = None
        return {
            "uri": self._settings.uri,
            "worker_version": self._version,
            "libvirt_version": self._capabilities.libvirt_version if self._capabilities else None,
            "qemu_version": self._capabilities.hypervisor_version if self._capabilities else None,
            "store": str(store) if store is not None else None,
            "store_free_bytes": usage.free if usage else None,
            "store_used_bytes": usage.used if usage else None,
            "libvirt_up": is_up,
            "draining": self._is_draining(),
        }
