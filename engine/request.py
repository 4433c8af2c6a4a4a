"""Carry one operation into an engine process: the JSON on its standard input."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from typing import Final, get_type_hints

from engine.errors import InvalidArgumentError
from engine.flags import BypassPolicy

REQUEST_VERSION: Final = 1
OPERATIONS: Final = frozenset(
    {"save", "checkpoint", "restore", "managed-save", "managed-save-remove", "start", "dump"}
)
_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One operation on one domain of this host."""

    op: str
    job_id: str
    host: str
    #: libvirt connection URI, such as qemu:///system.
    uri: str
    #: 0700 directory for pipes, locks and the records of running operations; absolute.
    runtime_dir: str
    #: Name or UUID; None for a restore.
    domain: str | None = None
    #: Restore: an image file or the directory of a restore point; absolute.
    path: str | None = None
    #: Save: the file to make; None = a restore point in the store; absolute.
    to: str | None = None
    #: Directory that holds restore points; absolute.
    store: str | None = None
    #: Domain XML to use on restore, whole text.
    dxml: str | None = None
    #: Rules that make the dxml, whole text of a TOML document.
    rules: str | None = None
    #: Restore: name of the copy to start beside the original; None = the domain itself.
    new_name: str | None = None
    running: bool = False
    paused: bool = False
    reset_nvram: bool = False
    autodestroy: bool = False
    force_boot: bool = False
    #: Restore: run the guest although its disks are not those its memory knows.
    force_stale_disks: bool = False
    bypass_cache: str = BypassPolicy.REQUIRE.value
    #: zstd level of the image; None = raw.
    zstd_level: int | None = None
    #: Most bytes a second; None = as fast as it goes.
    bandwidth: int | None = None
    #: "stream", or "native": libvirt does its own I/O.
    data_path: str = "stream"
    #: Native save: libvirt's name of the format; None = as qemu.conf says.
    image_format: str | None = None
    #: Native sparse save: parallel channels.
    channels: int | None = None
    #: Dump: number of the format (virDomainCoreDumpFormat).
    dump_format: int = 0
    #: Dump: bitwise or of virDomainCoreDumpFlags.
    dump_flags: int = 0
    #: Checkpoint: give up when the guest would stand still for longer, milliseconds.
    max_pause_milliseconds: int | None = None
    #: Only paths below these may be read or written; None = any (a local operator's own command).
    allowed_roots: list[str] | None = None
    #: Directory of libvirt's managed save images, so that they can be measured; None = unknown.
    managed_save_dir: str | None = None
    #: For fault tests: stand still at this step (or at the first "progress") until killed or cancelled.
    hold_at: str | None = None
    v: int = REQUEST_VERSION

    def __post_init__(self) -> None:
        """Refuse what no operation could mean."""
        if self.v != REQUEST_VERSION:
            raise InvalidArgumentError("request", f"version {self.v}", str(REQUEST_VERSION))
        if self.op not in OPERATIONS:
            raise InvalidArgumentError(
                "request", f"operation {self.op!r}", f"one of {', '.join(sorted(OPERATIONS))}"
            )
        if not _JOB_ID.fullmatch(self.job_id):
            raise InvalidArgumentError(
                "request", f"job id {self.job_id!r}", "1 to 64 letters, digits and dashes"
            )
        if self.bypass_cache not in set(BypassPolicy):
            raise InvalidArgumentError(
                "request", f"bypass_cache {self.bypass_cache!r}", "require, prefer or off"
            )
        for name in ("runtime_dir", "path", "to", "store", "managed_save_dir"):
            value = getattr(self, name)
            if value is not None and not value.startswith("/"):
                raise InvalidArgumentError(name, f"{value!r} is relative", "an absolute path")
            if value is not None and not is_path(value):
                raise InvalidArgumentError(name, f"{value!r} is no path", "one that a file can have")

    def to_json(self) -> str:
        """Return the document an engine process reads."""
        return json.dumps(asdict(self))


def parse_request(text: str | bytes) -> EngineRequest:
    """Return the request that the text holds.

    Raises:
        InvalidArgumentError: no JSON object, an unknown key, a missing one, a value of another type.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("request", f"no JSON: {error}", "one JSON object") from error
    if not isinstance(document, dict):
        raise InvalidArgumentError("request", "JSON, but no object", "one JSON object")
    hints = get_type_hints(EngineRequest)
    for key, value in document.items():
        if key not in hints:
            raise InvalidArgumentError(
                "request", f"unknown key {key!r}", ", ".join(f.name for f in fields(EngineRequest))
            )
        if not _fits(value, str(hints[key])):
            raise InvalidArgumentError("request", f"{key} is {value!r}", str(hints[key]))
    try:
        return EngineRequest(**document)
    except TypeError as error:
        raise InvalidArgumentError("request", str(error), "every required key") from error


def is_path(text: str) -> bool:
    """Tell whether a file could have this path: no NUL, and bytes that it stands for."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _fits(value: object, hint: str) -> bool:
    """Tell whether a JSON value is of the annotated type."""
    if value is None:
        return "None" in hint
    if isinstance(value, list):
        return hint.startswith("list[str]") and all(isinstance(item, str) for item in value)
    kind = {bool: "bool", int: "int", str: "str"}.get(type(value))
    return kind is not None and (hint == f"<class '{kind}'>" or kind in hint.split(" | "))
