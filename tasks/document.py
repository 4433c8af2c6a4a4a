"""Write and read the JSON documents that are signed: one text for each value, nothing said twice.

Source: DESIGN.md section 4.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tasks.errors import RefusedJobError
from tasks.limits import parse_time
from tasks.params import malformed

#: Longest time a document may be good for: far below that for which a host remembers what it asked for.
LIFETIME_MAX: Final = timedelta(days=7)
#: How far the sender's clock may be ahead.
CLOCK_SKEW_MAX: Final = timedelta(minutes=5)

_NONCE: Final = re.compile(r"[0-9a-f]{32}")


def format_document(document: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON: sorted keys, no spaces, UTF-8; the bytes that a signature covers."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def read_object(document: bytes, *, what: str, size_max: int) -> dict[str, Any]:
    """Return the one JSON object in the bytes; duplicate keys, NaN and oversize are refused.

    Args:
        document: as it came.
        what: the document's name in errors.
        size_max: bytes.

    Raises:
        RefusedJobError: reason malformed.
    """
    if len(document) > size_max:
        raise malformed(what, f"{len(document)} bytes", f"at most {size_max}")
    try:
        value = json.loads(document, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(what, f"no JSON: {error}", "one JSON object") from error
    if not isinstance(value, dict):
        raise malformed(what, type(value).__name__, "one JSON object")
    return value


def new_nonce() -> str:
    """Return 32 hex digits that nobody can guess."""
    return secrets.token_hex(16)


def is_nonce(value: object) -> bool:
    """Tell whether the value is one of `new_nonce`'s kind."""
    return isinstance(value, str) and _NONCE.fullmatch(value) is not None


def format_time(moment: datetime) -> str:
    """Return the moment in UTC as 2026-01-31T23:59:59.000Z; what is below a millisecond is dropped."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_times(document: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """Return when the document was issued and when it expires, which is later.

    Raises:
        RefusedJobError: reason malformed.
    """
    issued_at, expires_at = _read_time(document, "issued_at"), _read_time(document, "expires_at")
    if expires_at <= issued_at:
        raise malformed("expires_at", document["expires_at"], "a time after issued_at")
    return issued_at, expires_at


def check_time(where: str, issued_at: datetime, expires_at: datetime, *, now: datetime) -> None:
    """Refuse what is too old, not issued yet, or would be good for too long.

    Raises:
        RefusedJobError: reason expired; for one that would be good for too long: malformed.
    """
    if expires_at <= now:
        raise RefusedJobError(where, f"expired at {format_time(expires_at)}", reason="expired")
    if issued_at > now + CLOCK_SKEW_MAX:
        raise RefusedJobError(
            where, f"issued at {format_time(issued_at)}, which is still to come",
            f"at most {CLOCK_SKEW_MAX.seconds} s ahead of this host", "set the clocks, NTP keeps them so",
            reason="expired",
        )  # fmt: skip
    if expires_at - issued_at > LIFETIME_MAX:
        raise malformed("expires_at", format_time(expires_at), f"at most {LIFETIME_MAX.days} days of life")


def _read_time(document: Mapping[str, Any], key: str) -> datetime:
    """Return the one moment that the text can mean."""
    try:
        return parse_time(document[key])
    except ValueError as error:
        raise malformed(key, document[key], str(error)) from error


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
