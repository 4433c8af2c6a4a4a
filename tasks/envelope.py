"""Pack one job for one host into canonical JSON, and trust nothing when unpacking it.

Source: DESIGN.md section 4.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from engine.flags import BypassPolicy
from tasks.errors import RefusedJobError

ENVELOPE_VERSION: Final = 1
#: Bytes of canonical JSON; a domain XML in it is the only thing that grows.
ENVELOPE_SIZE_MAX: Final = 1024 * 1024
ATTEMPTS_MAX: Final = 1000
NAME_LENGTH_MAX: Final = 255
PATH_LENGTH_MAX: Final = 4096

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_NONCE: Final = re.compile(r"[0-9a-f]{32}")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

#: What each operation may be told; everything else comes from the host's own settings.
OPERATION_PARAMS: Final[Mapping[str, frozenset[str]]] = {
    "save": frozenset({"to", "dxml", "running", "paused", "bypass_cache"}),
    "restore": frozenset({"path", "dxml", "running", "paused", "reset_nvram", "bypass_cache"}),
    "managed-save": frozenset({"running", "paused", "bypass_cache"}),
    "start": frozenset({"paused", "autodestroy", "force_boot", "bypass_cache"}),
}
_FLAG_PARAMS: Final = frozenset({"running", "paused", "reset_nvram", "autodestroy", "force_boot"})
_PATH_PARAMS: Final = frozenset({"to", "path"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One job as it travels: what, on which host, and for how long the word is good."""

    job_id: str
    #: From 1.
    attempt: int
    op: str
    host: str
    #: Name or UUID; None for a restore, which takes the domain from the image.
    domain: str | None
    params: dict[str, Any]
    #: Aware, UTC, whole milliseconds.
    issued_at: datetime
    expires_at: datetime
    #: 32 hex digits; makes two envelopes of one job differ.
    nonce: str
    #: Which key signed it; None until envelopes are signed.
    key_id: str | None = None

    def to_bytes(self) -> bytes:
        """Return the canonical JSON: sorted keys, no spaces, UTF-8; the bytes that a signature covers."""
        document = {
            "v": ENVELOPE_VERSION,
            "job_id": self.job_id,
            "attempt": self.attempt,
            "op": self.op,
            "host": self.host,
            "domain": self.domain,
            "params": self.params,
            "issued_at": format_time(self.issued_at),
            "expires_at": format_time(self.expires_at),
            "nonce": self.nonce,
            "key_id": self.key_id,
        }
        text = json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()


def new_nonce() -> str:
    """Return 32 hex digits that nobody can guess."""
    return secrets.token_hex(16)


def format_time(moment: datetime) -> str:
    """Return the moment in UTC as 2026-01-31T23:59:59.000Z; what is below a millisecond is dropped."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_envelope(document: bytes | Mapping[str, Any], *, host: str, now: datetime) -> Envelope:
    """Return the job that the document holds, if it is for this host and in time.

    Args:
        document: canonical JSON, at most 1 MiB, or the object that it stands for.
        host: this host's name.
        now: aware; what the expiry is measured by.

    Raises:
        RefusedJobError: `reason` is malformed, wrong_host or expired, judged in this order.
    """
    envelope = _read_fields(_read_object(document))
    if envelope.host != host:
        raise RefusedJobError("host", repr(envelope.host), repr(host), reason="wrong_host")
    if envelope.expires_at <= now:
        raise RefusedJobError(
            f"job {envelope.job_id}", f"expired at {format_time(envelope.expires_at)}", reason="expired"
        )
    return envelope


def check_job(op: str, domain: str | None, params: Mapping[str, Any]) -> None:
    """Refuse an operation, a domain's name or parameters that no host would take.

    Raises:
        RefusedJobError: reason malformed; says which key, what is and what should be.
    """
    if op not in OPERATION_PARAMS:
        raise _malformed("op", op, f"one of {', '.join(OPERATION_PARAMS)}")
    if op == "restore":
        if domain is not None:
            raise _malformed("domain", domain, "null: the image says which domain")
        if "path" not in params:
            raise _malformed("params", "no path", "the image to restore")
    elif not _is_name(domain):
        raise _malformed("domain", domain, f"1 to {NAME_LENGTH_MAX} printable characters, no slash")
    for key, value in params.items():
        if key not in OPERATION_PARAMS[op]:
            raise _malformed(
                f"params of {op}", f"unknown key {key!r}", ", ".join(sorted(OPERATION_PARAMS[op]))
            )
        _check_param(key, value)
    if params.get("running") and params.get("paused"):
        raise _malformed("params", "both running and paused", "one of them")


def is_host_name(value: object) -> bool:
    """Tell whether the value can name a host (and so a queue and a stream)."""
    return isinstance(value, str) and _HOST.fullmatch(value) is not None


def _malformed(where: str, found: object, wanted: str) -> RefusedJobError:
    shown = found if isinstance(found, str) and " " in found else repr(found)
    return RefusedJobError(where, shown[:200], wanted, reason="malformed")


def _read_object(document: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the one JSON object in the bytes; duplicate keys, NaN and oversize are refused."""
    if not isinstance(document, bytes):
        return document
    if len(document) > ENVELOPE_SIZE_MAX:
        raise _malformed("envelope", f"{len(document)} bytes", f"at most {ENVELOPE_SIZE_MAX}")
    try:
        value = json.loads(document, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed("envelope", f"no JSON: {error}", "one JSON object") from error
    if not isinstance(value, dict):
        raise _malformed("envelope", type(value).__name__, "one JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that says one thing twice: a signature would cover both readings."""
    result = dict(pairs)
    if len(result) != len(pairs):
        message = "a key appears twice"
        raise ValueError(message)
    return result


def _no_constant(name: str) -> Any:
    message = f"{name} is no JSON"
    raise ValueError(message)


_KEYS: Final = frozenset(field.name for field in fields(Envelope)) | {"v"}


def _read_fields(document: Mapping[str, Any]) -> Envelope:
    """Return the envelope whose every field is of the right kind."""
    if document.keys() != _KEYS:
        odd = sorted(str(key) for key in document.keys() ^ _KEYS)
        raise _malformed(
            "envelope", f"missing or unknown keys {', '.join(odd)}", "exactly the envelope's keys"
        )
    for key, (is_right, wanted) in _FIELDS.items():
        if not is_right(document[key]):
            raise _malformed(key, document[key], wanted)
    check_job(document["op"], document["domain"], document["params"])
    issued_at, expires_at = _read_time(document, "issued_at"), _read_time(document, "expires_at")
    if expires_at <= issued_at:
        raise _malformed("expires_at", document["expires_at"], "a time after issued_at")
    return Envelope(
        **{key: document[key] for key in ("job_id", "attempt", "op", "host", "domain", "nonce", "key_id")},
        params=dict(document["params"]),
        issued_at=issued_at,
        expires_at=expires_at,
    )


def _read_time(document: Mapping[str, Any], key: str) -> datetime:
    """Return the one moment that the text can mean."""
    text = document[key]
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise _malformed(key, text, "a UTC time such as 2026-01-31T23:59:59.000Z")
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise _malformed(key, text, "a time that exists") from error


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


#: What can be said of each field alone, and how to say it.
_FIELDS: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "v": (lambda value: type(value) is int and value == ENVELOPE_VERSION, str(ENVELOPE_VERSION)),
    "job_id": (_matches(_JOB_ID), "1 to 64 letters, digits and dashes"),
    "attempt": (lambda value: type(value) is int and 1 <= value <= ATTEMPTS_MAX, f"1 to {ATTEMPTS_MAX}"),
    "host": (is_host_name, "a host's name"),
    "op": (lambda value: isinstance(value, str), "an operation's name"),
    "params": (lambda value: isinstance(value, dict), "an object"),
    "nonce": (_matches(_NONCE), "32 hex digits"),
    "key_id": (lambda value: value is None, "null: this version signs nothing"),
}


def _is_name(value: object) -> bool:
    """Tell whether the value can name a domain without reaching into a path or a log line."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= NAME_LENGTH_MAX
        and "/" not in value
        and value not in {".", ".."}
        and not _UNPRINTABLE.search(value)
    )


def _check_param(key: str, value: object) -> None:
    """Refuse a parameter of the wrong kind."""
    if key in _FLAG_PARAMS:
        if not isinstance(value, bool):
            raise _malformed(key, value, "true or false")
    elif key == "bypass_cache":
        if not isinstance(value, str) or value not in set(BypassPolicy):
            raise _malformed(key, value, "require, prefer or off")
    elif value is None and key in {"to", "dxml"}:
        return
    elif not isinstance(value, str) or _SURROGATE.search(value):
        raise _malformed(key, value, "text")
    elif key in _PATH_PARAMS and not _is_path(value):
        raise _malformed(key, value, f"an absolute path of at most {PATH_LENGTH_MAX} characters, without ..")


def _is_path(value: str) -> bool:
    """Tell whether the text is an absolute path that means what it says."""
    return (
        value.startswith("/")
        and len(value) <= PATH_LENGTH_MAX
        and ".." not in value.split("/")
        and not _UNPRINTABLE.search(value)
    )
