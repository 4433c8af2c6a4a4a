"""Write down, beside an image in staging, whose it is and how far it came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from engine.errors import ImageFormatError

RECORD_NAME: Final = "record.json"
#: The guest cannot have been let go; the image may be thrown away.
WRITING: Final = "writing"
#: The image is whole and durable; it may be the only copy of its guest.
PREPARED: Final = "prepared"

#: By annotation: the type that JSON has to have.
_KINDS: Final[Mapping[str, type]] = {"str": str, "int": int, "bool": bool}
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What recovery has to know of one staging directory."""

    job_id: str
    op: str
    domain: str
    domain_uuid: str
    #: Number of the domain's run that was being saved.
    run_id: int
    was_running: bool
    #: Final path of the image file, or of the restore point's directory.
    final: str
    is_point: bool
    #: The host's boot: after another one no guest of this record can be left.
    boot_id: str
    #: "native": libvirt itself wrote the image, and let the guest go when it had.
    data_path: str = "stream"
    state: str = WRITING

    def to_json(self) -> str:
        """Return the text of the record file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def parse_record(text: str, *, path: str) -> Record:
    """Return the record that the text holds.

    Raises:
        ImageFormatError: it is none.
    """
    try:
        record = Record(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ImageFormatError(
            path, f"no staging record: {error}", "the JSON that fleetsave wrote"
        ) from error
    for field in fields(Record):
        value = getattr(record, field.name)
        if type(value) is not _KINDS[str(field.type)]:
            raise ImageFormatError(path, f"{field.name} is {value!r}", str(field.type))
    if record.state not in {WRITING, PREPARED}:
        raise ImageFormatError(path, f"state {record.state!r}", f"{WRITING} or {PREPARED}")
    return record


def read_boot_id() -> str:
    """Return the kernel's id of this boot."""
    return _BOOT_ID.read_text().strip()
