"""Pack one job for one host into canonical JSON, and trust nothing when unpacking it.

Source: DESIGN.md section 4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from tasks.broker import FIRST_SUFFIX
from tasks.document import (
    check_time,
    format_document,
    format_time,
    is_nonce,
    new_nonce,
    read_object,
    read_times,
)
from tasks.errors import RefusedJobError
from tasks.keyring import CheckSignature
from tasks.keys import is_key_id
from tasks.params import NAME_LENGTH_MAX, OPERATION_PARAMS, check_params, is_domain_name, malformed

__all__ = [
    "Envelope",
    "check_job",
    "format_time",
    "is_host_name",
    "new_nonce",
    "open_envelope",
    "parse_envelope",
]

ENVELOPE_VERSION: Final = 1
#: Bytes of canonical JSON; a domain XML in it is the only thing that grows.
ENVELOPE_SIZE_MAX: Final = 1024 * 1024
ATTEMPTS_MAX: Final = 1000

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


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
    #: Which key signed it; None: nobody did, and only an insecure worker takes it.
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
        return format_document(document)


def open_envelope(
    document: bytes, signature: object, *, check: CheckSignature, host: str, now: datetime
) -> Envelope:
    """Return the job that a signed document holds; nothing in it is believed before the signature is.

    Args:
        document: canonical JSON as it came; the signature covers exactly these bytes.
        signature: as it came beside it.
        check: of a `Keyring`.
        host: this host's name.
        now: aware; what its time is measured by.

    Raises:
        RefusedJobError: `reason` is malformed (no JSON object), bad_signature, or as for parse_envelope.
    """
    fields = read_object(document, what="envelope", size_max=ENVELOPE_SIZE_MAX)
    check(document, fields.get("key_id"), signature)
    return parse_envelope(fields, host=host, now=now)


def parse_envelope(document: bytes | Mapping[str, Any], *, host: str, now: datetime | None) -> Envelope:
    """Return the job that the document holds, if it is for this host and in time; signed or not.

    Args:
        document: canonical JSON, at most 1 MiB, or the object that it stands for.
        host: this host's name.
        now: aware; what the expiry is measured by; None: whether it was in time was judged before.

    Raises:
        RefusedJobError: `reason` is malformed, wrong_host or expired, judged in this order.
    """
    if isinstance(document, bytes):
        document = read_object(document, what="envelope", size_max=ENVELOPE_SIZE_MAX)
    envelope = _read_fields(document)
    if envelope.host != host:
        raise RefusedJobError("host", repr(envelope.host), repr(host), reason="wrong_host")
    if now is not None:
        check_time(f"job {envelope.job_id}", envelope.issued_at, envelope.expires_at, now=now)
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
    elif not is_domain_name(domain):
        raise malformed("domain", domain, f"1 to {NAME_LENGTH_MAX} printable characters, no slash")
    check_params(op, params)


def is_host_name(value: object) -> bool:
    """Tell whether the value can name a host (and so a queue and a stream)."""
    return isinstance(value, str) and _HOST.fullmatch(value) is not None and not value.endswith(FIRST_SUFFIX)


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
    issued_at, expires_at = read_times(document)
    return Envelope(
        **{key: document[key] for key in ("job_id", "attempt", "op", "host", "domain", "nonce", "key_id")},
        params=dict(document["params"]),
        issued_at=issued_at,
        expires_at=expires_at,
    )


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
    "nonce": (is_nonce, "32 hex digits"),
    "key_id": (lambda value: value is None or is_key_id(value), "a key's id, or null"),
}
