"""Say what a job may tell each operation, and turn that into what the engine is asked.

What is not here (where to connect, where to write, the job's own name) comes from the host's settings and the
envelope, never from the one who submits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.flags import BypassPolicy, DumpFlags, DumpFormat
from tasks.errors import RefusedJobError
from tasks.limits import ATTEMPTS_MAX, DEADLINE_PARAMS, SECONDS_MAX, is_retry, is_seconds, is_time

#: What each operation may be told.
OPERATION_PARAMS: Final[Mapping[str, frozenset[str]]] = {
    "save": frozenset(
        {"to", "dxml", "rules", "running", "paused", "bypass_cache", "compress", "bandwidth"}
        | {"data_path", "image_format", "channels"}
    ),
    "checkpoint": frozenset(
        {"to", "running", "paused", "bypass_cache", "compress", "bandwidth", "max_guest_pause"}
    ),
    "restore": frozenset(
        {"path", "dxml", "rules", "new_name", "running", "paused", "reset_nvram", "bypass_cache", "data_path"}
        | {"force_stale_disks"}
    ),
    "managed-save": frozenset({"running", "paused", "bypass_cache"}),
    "managed-save-remove": frozenset(),
    "start": frozenset({"paused", "force_boot", "bypass_cache"}),
    "dump": frozenset({"to", "format", "bypass_cache", "memory_only", "crash", "live", "reset"}),
}
#: What a job may be told beside its operation; the engine hears none of it.
JOB_PARAMS: Final = frozenset({*DEADLINE_PARAMS, "retry", "queued_at"})
PATH_LENGTH_MAX: Final = 4096
NAME_LENGTH_MAX: Final = 255
#: zstd's own range, without the levels that need gigabytes.
ZSTD_LEVELS: Final = range(1, 20)
#: zstd's own default.
ZSTD_LEVEL: Final = 3
BANDWIDTH_MAX: Final = 2**50  # bytes per second
CHANNELS_MAX: Final = 255
GUEST_PAUSE_MAX: Final = 3600.0  # seconds
DUMP_FORMATS: Final[Mapping[str, DumpFormat]] = {
    form.name.lower().replace("_", "-"): form for form in DumpFormat
}

_COMPRESS: Final = re.compile(r"none|zstd(?::([0-9]{1,2}))?")
_IMAGE_FORMAT: Final = re.compile(r"[a-z0-9]{1,16}")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_DUMP_FLAGS: Final[Mapping[str, DumpFlags]] = {
    "memory_only": DumpFlags.MEMORY_ONLY,
    "crash": DumpFlags.CRASH,
    "live": DumpFlags.LIVE,
    "reset": DumpFlags.RESET,
}
#: The same name and meaning on both sides.
_PLAIN: Final = (
    "to", "path", "dxml", "rules", "new_name", "running", "paused", "reset_nvram", "force_boot",
    "bypass_cache", "bandwidth", "data_path", "image_format", "channels", "force_stale_disks",
)  # fmt: skip


def parse_compression(text: str) -> int | None:
    """Return the zstd level that "zstd", "zstd:9" or "none" stand for; None = no compression.

    Raises:
        ValueError: the text is none of these; the sentence says what it may be.
    """
    found = _COMPRESS.fullmatch(text)
    level = ZSTD_LEVEL if found is None or found.group(1) is None else int(found.group(1))
    if found is None or level not in ZSTD_LEVELS:
        message = f"{text!r}, want none, zstd or zstd:LEVEL from {ZSTD_LEVELS[0]} to {ZSTD_LEVELS[-1]}"
        raise ValueError(message)
    return None if text == "none" else level


def check_params(op: str, params: Mapping[str, Any]) -> None:
    """Refuse parameters that the operation does not know, of the wrong kind, or that exclude each other.

    Raises:
        RefusedJobError: reason malformed; says which key, what is and what should be.
    """
    if params.get("autodestroy"):
        raise RefusedJobError(
            "autodestroy", "the guest would end with the job, whose connection is closed at its end", "",
            "fleetsave start --local --autodestroy keeps one open",
        )  # fmt: skip
    for key, value in params.items():
        if key not in OPERATION_PARAMS[op] | JOB_PARAMS:
            known = ", ".join(sorted(OPERATION_PARAMS[op])) or "none at all"
            raise malformed(f"params of {op}", f"unknown key {key!r}", known)
        kind = _KINDS[key]
        if not (kind.may_be_null and value is None) and not kind.is_right(value):
            raise malformed(key, value, kind.wanted)
    if op == "restore" and "path" not in params:
        raise malformed("params", "no path", "the image to restore")
    check_together(op, params)


def check_together(op: str, params: Mapping[str, Any]) -> None:
    """Refuse parameters that are each right, yet mean nothing together.

    Raises:
        RefusedJobError: reason malformed.
    """
    if params.get("running") and params.get("paused"):
        raise malformed("params", "both running and paused", "one of them")
    if params.get("dxml") is not None and params.get("rules") is not None:
        raise malformed("params", "both dxml and rules", "one of them: rules make a dxml")
    is_native = params.get("data_path") == "native"
    if is_native and (params.get("compress", "none") != "none" or params.get("bandwidth")):
        raise malformed("data_path", "native with compress or bandwidth", "data_path stream for these")
    if not is_native and (params.get("image_format") or params.get("channels")):
        raise malformed("image_format", "image_format or channels on the stream", "data_path native")
    if op != "dump":
        return
    if not params.get("to"):
        raise malformed("params", "no to", "the file to make")
    ends = [name for name in ("crash", "live", "reset") if params.get(name)]
    if len(ends) > 1:
        raise malformed("params", f"both {' and '.join(ends)}", "one of crash, live and reset")
    if params.get("format", "raw") != "raw" and not params.get("memory_only"):
        raise malformed("format", f"{params['format']} of the whole guest", "memory_only, or format raw")


def is_domain_name(value: object) -> bool:
    """Tell whether the value can name a domain without reaching into a path or a log line."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= NAME_LENGTH_MAX
        and "/" not in value
        and value not in {".", ".."}
        and not _UNPRINTABLE.search(value)
    )


def request_fields(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an EngineRequest that the parameters stand for; they have been checked."""
    fields = {key: params[key] for key in _PLAIN if key in params}
    if "compress" in params:
        fields["zstd_level"] = parse_compression(params["compress"])
    if "max_guest_pause" in params:
        fields["max_pause_milliseconds"] = max(1, round(params["max_guest_pause"] * 1000))
    if "format" in params:
        fields["dump_format"] = int(DUMP_FORMATS[params["format"]])
    flags = sum(flag for name, flag in _DUMP_FLAGS.items() if params.get(name))
    return fields | ({"dump_flags": int(flags)} if flags else {})


def malformed(where: str, found: object, wanted: str) -> RefusedJobError:
    """Return the error for a part of an envelope that is not what it should be."""
    shown = found if isinstance(found, str) and " " in found else repr(found)
    return RefusedJobError(where, shown[:200], wanted, reason="malformed")


def _is_path(value: object) -> bool:
    """Tell whether the value is an absolute path that means what it says."""
    return (
        isinstance(value, str)
        and value.startswith("/")
        and len(value) <= PATH_LENGTH_MAX
        and ".." not in value.split("/")
        and not _UNPRINTABLE.search(value)
    )


def _is_compression(value: object) -> bool:
    try:
        parse_compression(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _is_number(value: object, maximum: int) -> bool:
    return type(value) is int and 1 <= value <= maximum


def _is_seconds(value: object) -> bool:
    return type(value) in {int, float} and 0 < value <= GUEST_PAUSE_MAX  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one parameter may be."""

    is_right: Callable[[object], bool]
    wanted: str
    may_be_null: bool = False


_FLAG: Final = _Kind(lambda value: isinstance(value, bool), "true or false")
_KINDS: Final[Mapping[str, _Kind]] = {
    **dict.fromkeys(
        ("running", "paused", "reset_nvram", "force_boot", "force_stale_disks", *_DUMP_FLAGS), _FLAG
    ),
    "to": _Kind(
        _is_path, f"an absolute path of at most {PATH_LENGTH_MAX} characters, without ..", may_be_null=True
    ),
    "path": _Kind(_is_path, f"an absolute path of at most {PATH_LENGTH_MAX} characters, without .."),
    **dict.fromkeys(
        ("dxml", "rules"),
        _Kind(
            lambda value: isinstance(value, str) and not _SURROGATE.search(value), "text", may_be_null=True
        ),
    ),
    "new_name": _Kind(is_domain_name, f"1 to {NAME_LENGTH_MAX} printable characters, no slash"),
    "bypass_cache": _Kind(
        lambda value: isinstance(value, str) and value in set(BypassPolicy), "require, prefer or off"
    ),
    "compress": _Kind(
        _is_compression, f"none, zstd or zstd:LEVEL from {ZSTD_LEVELS[0]} to {ZSTD_LEVELS[-1]}"
    ),
    "bandwidth": _Kind(lambda value: _is_number(value, BANDWIDTH_MAX), "bytes per second, a whole number"),
    "data_path": _Kind(
        lambda value: isinstance(value, str) and value in {"stream", "native"}, "stream or native"
    ),
    "image_format": _Kind(
        lambda value: isinstance(value, str) and _IMAGE_FORMAT.fullmatch(value) is not None,
        "libvirt's name of a format, such as raw or sparse",
    ),
    "channels": _Kind(lambda value: _is_number(value, CHANNELS_MAX), f"1 to {CHANNELS_MAX}"),
    "max_guest_pause": _Kind(_is_seconds, f"seconds above 0, at most {GUEST_PAUSE_MAX:.0f}"),
    **dict.fromkeys(
        DEADLINE_PARAMS, _Kind(is_seconds, f"seconds above 0, at most {SECONDS_MAX:.0f}", may_be_null=True)
    ),
    "retry": _Kind(
        is_retry, f"attempts from 1 to {ATTEMPTS_MAX} and backoff in seconds, one object", may_be_null=True
    ),
    "queued_at": _Kind(is_time, "a UTC time such as 2026-01-31T23:59:59.000Z"),
    "format": _Kind(
        lambda value: isinstance(value, str) and value in DUMP_FORMATS, f"one of {', '.join(DUMP_FORMATS)}"
    ),
}
