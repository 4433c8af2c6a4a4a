"""Describe a save image in the JSON that lies beside it.

Source: DESIGN.md section 3.4, manifest format 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from engine.checksum import PART_SIZE, Checksum
from engine.errors import ImageFormatError

MANIFEST_FORMAT: Final = 1
#: By annotation: the types that JSON may have.
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "Checksum": (Checksum,),
    "dict[str, Any]": (dict,),
    "list[dict[str, Any]]": (list,),
}
#: Bytes; a manifest of a 16 TiB image stays below.
MANIFEST_SIZE_MAX: Final = 32 * 1024 * 1024
#: Characters of an error's sentence about a value.
_SHOWN_MAX: Final = 200


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
    #: What the guest needs of a host (engine.domxml.requirements); empty in older manifests.
    requirements: dict[str, Any] = field(default_factory=dict)
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
        document = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if document.get("format") != MANIFEST_FORMAT:
            raise ImageFormatError(path, f"manifest format {document.get('format')!r}", str(MANIFEST_FORMAT))
        checksum = document.pop("checksum")
        sums = Checksum(**{**checksum, "parts": tuple(checksum["parts"])})
        manifest = Manifest(**document, checksum=sums)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ImageFormatError(path, f"no manifest: {error}", "manifest format 1") from error
    for each in fields(Manifest):
        value = getattr(manifest, each.name)
        fits = type(value) in _KINDS[str(each.type)]
        if not fits or (isinstance(value, list) and not all(isinstance(item, dict) for item in value)):
            raise ImageFormatError(path, f"{each.name} is {value!r}"[:_SHOWN_MAX], str(each.type))
    if manifest.image_bytes < 0:
        raise ImageFormatError(path, f"image_bytes is {manifest.image_bytes}", "0 or more")
    _check_sums(sums, path)
    return manifest


def _check_sums(sums: Checksum, path: str) -> None:
    """Refuse checksums of another kind than ours."""
    texts = (sums.algorithm, sums.value, *sums.parts)
    if sums.part_size != PART_SIZE or not all(type(text) is str for text in texts):
        raise ImageFormatError(path, f"checksum with parts of {sums.part_size!r} bytes", str(PART_SIZE))


def _finite(text: str) -> float:
    """Return a number; refuse one too large for a float, which would become Infinity."""
    number = float(text)
    if math.isinf(number):
        _refuse(text)
    return number


def _refuse(name: str) -> None:
    """Refuse NaN and Infinity, which JSON has not and Python reads."""
    raise ValueError(f"{name} is no number of JSON")
