"""Take an image of a guest that goes on running: its memory past the page cache, live.

Source: libvirt src/qemu/qemu_snapshot.c, qemuSnapshotCreateActiveExternal(): an external
memory snapshot is written exactly as a save image is, both visits included.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from engine.domxml.document import parse_domain_xml
from engine.errors import InvalidArgumentError, TryAgainError
from engine.hypervisor.port import Domain
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import check_flags, check_streams, preflight_save
from engine.steps import Step
from engine.streamsave import ImageKind, SaveOptions, StreamSave

#: Share of the allowed pause that QEMU may plan for its last round; the rest is for the sync.
_DOWNTIME_SHARE: Final = 0.5


def checkpoint(
    operation: Operation,
    name: str,
    to: Path | None,
    *,
    options: SaveOptions | None = None,
    max_pause_seconds: float | None = None,
) -> Outcome:
    """Write the guest's memory into the file `to` or a new restore point; the guest goes on running.

    The disks are not part of it: with any, the image is good only together with the disks
    of that very instant, and its manifest says so.

    Raises:
        WrongStateError: the guest does not run.
        TryAgainError: it would have stood still for longer than max_pause_seconds; it goes on.
        EngineError: the guest goes on, and nothing is under the final name.
    """
    options = options or SaveOptions()
    check_flags(options.flags)
    if max_pause_seconds is not None and max_pause_seconds <= 0:
        raise InvalidArgumentError("max_pause_seconds", str(max_pause_seconds), "more than 0")
    plan = preflight_save(operation, name, to, None, options.policy, live=True)
    check_streams(operation.hypervisor)
    operation.reach(Step.PREFLIGHT)
    disks = _disk_targets(operation.hypervisor.domain_xml(plan.domain.uuid))
    if max_pause_seconds is not None:
        operation.hypervisor.set_max_downtime(plan.domain.uuid, max_pause_seconds * _DOWNTIME_SHARE)
    watch = _PauseWatch(operation, plan.domain, max_pause_seconds)
    kind = ImageKind(
        op="checkpoint",
        call=lambda path: operation.hypervisor.checkpoint(plan.domain.uuid, format_snapshot(path, disks)),
        guest_ends=False,
        check=watch.check,
    )
    return StreamSave(operation, plan, kind, options).run()


class _PauseWatch:
    """Gives up once the guest has stood still for too long."""

    def __init__(self, operation: Operation, domain: Domain, max_pause_seconds: float | None) -> None:
        self._operation = operation
        self._domain = domain
        self._limit = max_pause_seconds
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise TryAgainError when the limit is reached."""
        if self._limit is None:
            return
        paused = self._operation.paused_seconds(self._domain.uuid, self._since)
        if paused > self._limit:
            raise TryAgainError(
                self._domain.name,
                f"the guest has stood still for {paused:.2f} s",
                f"at most {self._limit:.2f} s",
                "it goes on; try when it writes less, or allow a longer --max-guest-pause",
            )


def _disk_targets(domain_xml: str) -> list[str]:
    """Return the target names of the domain's disks."""
    root = parse_domain_xml(domain_xml, where="domain XML of the guest")
    return [target.get("dev", "") for target in root.iterfind("devices/disk/target")]


def format_snapshot(path: str, disks: list[str]) -> str:
    """Return the XML of a snapshot of memory alone.

    Source: https://libvirt.org/formatsnapshot.html
    """
    memory = f"<memory snapshot='external' file={quoteattr(path)}/>"
    listed = "".join(f"<disk name={quoteattr(disk)} snapshot='no'/>" for disk in disks)
    return f"<domainsnapshot>{memory}<disks>{listed}</disks></domainsnapshot>"
