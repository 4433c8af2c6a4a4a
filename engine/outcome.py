"""Report a finished operation in the words of the command line's JSON.

Source: DESIGN.md section 6, "JSON of one finished save, checkpoint or restore".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from engine.checksum import Checksum
from engine.domxml.changes import Change
from engine.flags import BypassFailure, BypassPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class BypassReport:
    """What became of the page cache, bytes."""

    policy: BypassPolicy
    #: All of the transfer bypassed the cache.
    direct: bool
    direct_bytes: int
    buffered_bytes: int
    #: Of the image, in the page cache afterwards; None where it could not be looked at.
    resident_bytes: int | None
    #: Why the cache was not bypassed; empty when it was, or was not to be.
    failures: tuple[BypassFailure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One operation that succeeded."""

    op: str
    job_id: str
    domain: str
    domain_uuid: str
    host: str
    #: The image, or the restore point's directory; empty where the hypervisor keeps it to itself.
    path: str
    #: Length of the image in bytes.
    bytes: int
    duration_seconds: float
    #: How long the guest's CPUs stood still on behalf of this operation.
    guest_paused_seconds: float
    #: Image bytes by the seconds that the stream and its sync took.
    throughput_bytes_per_second: float
    #: The guest ran when it was saved.
    was_running: bool
    bypass_cache: BypassReport
    #: None where the hypervisor did the I/O by itself.
    checksum: Checksum | None
    #: "stream" or "native".
    data_path: str
    simulated: bool
    dxml_changes: tuple[Change, ...] = field(default=())
    #: libvirt's word for the domain after the operation.
    state: str = ""
    #: What a saved guest needs of a host, as in the manifest; empty where no image was made.
    requirements: dict[str, Any] = field(default_factory=dict)
    #: What should be known of it although it succeeded; sentences for people.
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object; checksums of parts stay in the manifest."""
        document = asdict(self)
        if self.checksum is not None:
            document["checksum"] = {"algorithm": self.checksum.algorithm, "value": self.checksum.value}
        return document
