"""Describe a save image in the JSON that lies beside it.

Source: DESIGN.md section 3.4, manifest format 1.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from engine.checksum import PART_SIZE, Checksum
from engine.errors import ImageFormatError

MANIFEST_FORMAT: Final = 1
_TEXTS: Final = ("job_id", "op", "domain", "domain_uuid", "host", "taken_at")
#: Bytes; a manifest of a 16 TiB image stays below.
MANIFEST_SIZE_MAX: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was saved, when, from where, and what the bytes must add up to."""

    job_id: str
    op: str
    domain: str
    domain_uuid: str
    host: str
    #: UTC, RFC 3339; when the guest's memory was complete.
    taken_at: str
    fleetsave_version: str
    libvirt_version: str
    hypervisor_version: str
    machine: str
    cpu_model: str
    was_running: bool
    #: Length of the image file in bytes.
    image_bytes: int
    checksum: Checksum
    guest_paused_seconds: float
    duration_seconds: float
    throughput_bytes_per_second: float
    data_path: str
    bypass_cache: dict[str, Any]
    dxml_changes: list[dict[str, Any]] = field(default_factory=list)
    disks: list[dict[str, Any]] = field(default_factory=list)
    #: The disks, left alone, still fit the memory when the operation ended.
    disks_consistent: bool = True
    simulated: bool = False
    format: int = MANIFEST_FORMAT

    def to_json(self) -> str:
        """Return the text of the manifest file."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def parse_manifest(text: str, *, path: str) -> Manifest:
    """Return the manifest that the text holds.

    Raises:
        ImageFormatError: no JSON, another format number, a field missing, unknown or of another type.
    """
    try:
        document = json.loads(text)
        if document.get("format") != MANIFEST_FORMAT:
            raise ImageFormatError(path, f"manifest format {document.get('format')!r}", str(MANIFEST_FORMAT))
        checksum = document.pop("checksum")
        sums = Checksum(**{**checksum, "parts": tuple(checksum["parts"])})
        manifest = Manifest(**document, checksum=sums)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ImageFormatError(path, f"no manifest: {error}", "manifest format 1") from error
    kinds = {**dict.fromkeys(_TEXTS, str), "image_bytes": int, "was_running": bool, "bypass_cache": dict}
    for name, kind in kinds.items():
        if type(getattr(manifest, name)) is not kind:
            raise ImageFormatError(path, f"{name} is {getattr(manifest, name)!r}", kind.__name__)
    if sums.part_size != PART_SIZE or type(sums.value) is not str:
        raise ImageFormatError(path, f"checksum with parts of {sums.part_size!r} bytes", str(PART_SIZE))
    return manifest
