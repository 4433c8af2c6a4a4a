"""Give a simulated host its first domains."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final
from uuid import UUID, uuid5

from engine.hypervisor.sim.domain import SimDomain
from engine.hypervisor.sim.machine import make_xml
from engine.hypervisor.sim.owner import read_boot_id
from engine.hypervisor.sim.settings import SimSettings

_NAMESPACE: Final = UUID("6f0c5f5e-8f0f-4f55-9d0e-5a1c5ab1e001")


def populate(settings: SimSettings) -> Iterator[SimDomain]:
    """Yield the domains of a new host: the same for the same settings, whoever makes it."""
    now = time.monotonic()
    running = round(settings.domains * settings.running)
    for number in range(settings.domains):
        name = f"{settings.host}-{number:04}"
        uuid = str(uuid5(_NAMESPACE, f"{settings.seed}/{name}"))
        xml = make_xml(name, uuid, settings.memory_bytes, settings.machines[0])
        domain = SimDomain(name=name, uuid=uuid, definition=xml, memory_bytes=settings.memory_bytes)
        if number < running:
            domain = domain.started(run_id=number + 1, boot_id=read_boot_id(), live=xml).resumed(now)
        yield domain


def describe_host(settings: SimSettings) -> str:
    """Return the text of host.json."""
    document = {**asdict(settings), "parent": str(settings.parent), "simulated": True}
    del document["faults"]
    return json.dumps(document, indent=2) + "\n"
