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

from tasks.broker import FIRST_SUFFIX
from tasks.errors import RefusedJobError
from tasks.params import OPERATION_PARAMS, check_params, malformed

ENVELOPE_VERSION: Final = 1
#: Bytes of canonical JSON; a domain XML in it is the only thing that grows.
ENVELOPE_SIZE_MAX: Final = 1024 * 1024
ATTEMPTS_MAX: Final = 1000
NAME_LENGTH_MAX: Final = 255

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_NONCE: Final = re.compile(r"[0-9a-f]{32}")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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
        raise malformed("op", op, f"one of {', '.join(OPERATION_PARAMS)}")
    if op == "restore":
        if domain is not None:
            raise malformed("domain", domain, "null: the image says which domain")
    elif not _is_name(domain):
        raise malformed("domain", domain, f"1 to {NAME_LENGTH_MAX} printable characters, no slash")
    check_params(op, params)


def is_host_name(value: object) -> bool:
    """Tell whether the value can name a host (and so a queue and a stream)."""
    return isinstance(value, str) and _HOST.fullmatch(value) is not None and not value.endswith(FIRST_SUFFIX)


def _read_object(document: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the one JSON object in the bytes; duplicate keys, NaN and oversize are refused."""
    if not isinstance(document, bytes):
        return document
    if len(document) > ENVELOPE_SIZE_MAX:
        raise malformed("envelope", f"{len(document)} bytes", f"at most {ENVELOPE_SIZE_MAX}")
    try:
        value = json.loads(document, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed("envelope", f"no JSON: {error}", "one JSON object") from error
    if not isinstance(value, dict):
        raise malformed("envelope", type(value).__name__, "one JSON object")
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
        raise malformed(
            "envelope", f"missing or unknown keys {', '.join(odd)}", "exactly the envelope's keys"
        )
    for key, (is_right, wanted) in _FIELDS.items():
        if not is_right(document[key]):
            raise malformed(key, document[key], wanted)
    check_job(document["op"], document["domain"], document["params"])
    issued_at, expires_at = _read_time(document, "issued_at"), _read_time(document, "expires_at")
    if expires_at <= issued_at:
        raise malformed("expires_at", document["expires_at"], "a time after issued_at")
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
        raise malformed(key, text, "a UTC time such as 2026-01-31T23:59:59.000Z")
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise malformed(key, text, "a time that exists") from error


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
