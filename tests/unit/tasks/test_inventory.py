"""What a worker says of its host, and how often."""

from pathlib import Path
from typing import Any

import pytest

from engine.domains import DomainSummary
from engine.domxml.offer import HostCapabilities, parse_host_capabilities
from engine.errors import EngineError, HypervisorUnreachableError, NotSupportedError
from tasks import inventory
from tasks.config import HostSettings
from tasks.host_event import HostEvent
from tasks.inventory import Inventory
from tasks.metrics import WorkerMetrics
from tests.data.host_documents import HOST

DOMAIN = DomainSummary(
    name="web-1",
    uuid="u-1",
    state="running",
    memory_bytes=1,
    persistent=True,
    has_managed_save=False,
    tags=(),
)


class Watched:
    """An inventory of a host that is what the test says, and what it published."""

    def __init__(self, folder: Path) -> None:
        self.domains: list[DomainSummary] | EngineError = [DOMAIN]
        self.host: HostCapabilities | EngineError = HOST
        self.probes = 0
        self.events: list[HostEvent] = []
        self._inventory = Inventory(
            HostSettings(name="alpha", state_dir=folder, runtime_dir=folder),
            self.events.append,
            WorkerMetrics(version="1", store=None),
            list_domains=self._list_domains,
            describe_host=self._describe_host,
            tags={},
            version="1",
        )

    def look(self) -> dict[str, Any]:
        """Let it look once; return what it published."""
        self._inventory.look()
        return self.events[-1].body

    def _list_domains(self, uri: str) -> list[DomainSummary]:
        del uri
        if isinstance(self.domains, EngineError):
            raise self.domains
        return self.domains

    def _describe_host(self, uri: str) -> HostCapabilities:
        del uri
        self.probes += 1
        if isinstance(self.host, EngineError):
            raise self.host
        return self.host


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """Give one that has not looked yet."""
    return Watched(tmp_path)


def test_capabilities_are_said_once_with_the_versions(watched: Watched) -> None:
    """Then only what is short; the host is not probed each time."""
    first, second = watched.look(), watched.look()

    assert parse_host_capabilities(first["capabilities"]) == HOST
    assert (second["capabilities"], second["domains"]) == (None, None)
    for body in (first, second):
        assert (body["facts"]["libvirt_version"], body["facts"]["qemu_version"]) == ("11.3.0", "9.2.0")
    assert watched.probes == 1


def test_host_is_probed_again_after_its_time(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not changed is not said again; what has, is."""
    monkeypatch.setattr(inventory, "_PROBE_SECONDS", 0.0)
    watched.look()
    assert watched.look()["capabilities"] is None

    watched.host = HostCapabilities(libvirt_version="12.0.0", hypervisor_version="10.0.0", cpu=HOST.cpu)

    assert watched.look()["capabilities"]["libvirt_version"] == "12.0.0"
    assert watched.probes == 3


def test_libvirt_that_is_back_is_probed_at_once(watched: Watched) -> None:
    """It may be another version; while it is away, what was known stands."""
    watched.look()
    watched.domains = HypervisorUnreachableError("x", "away")
    away = watched.look()
    watched.domains = [DOMAIN]
    watched.look()

    assert (away["facts"]["libvirt_up"], away["facts"]["libvirt_version"]) == (False, "11.3.0")
    assert away["domains"] is None
    assert watched.probes == 2


def test_everything_is_said_again_after_long(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new catalog needs it."""
    watched.look()
    monkeypatch.setattr(inventory, "_REPEAT_SECONDS", 0.0)

    body = watched.look()

    assert body["capabilities"] is not None
    assert [domain["name"] for domain in body["domains"]] == ["web-1"]


def test_host_that_does_not_say_is_reported_all_the_same(watched: Watched) -> None:
    """Without versions, with its domains; nor is it asked all the time."""
    watched.host = NotSupportedError("x", "no capabilities")

    body = watched.look()
    watched.look()

    assert (body["capabilities"], body["facts"]["libvirt_version"]) == (None, None)
    assert (body["facts"]["libvirt_up"], len(body["domains"])) == (True, 1)
    assert watched.probes == 1
