"""Pack what an operator asks for into canonical JSON, and trust nothing when unpacking it.

Source: DESIGN.md section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tasks.document import check_time, format_document, format_time, is_nonce, read_object, read_times
from tasks.envelope import is_host_name
from tasks.keys import is_key_id
from tasks.locate import DomainRef
from tasks.params import OPERATION_PARAMS, malformed
from tasks.selector import WORDS_MAX, check_selector

#: The Celery task that takes it. In the document, too: a signature of anything else means nothing here.
SUBMIT_TASK: Final = "fleetsave.submit"
SUBMISSION_VERSION: Final = 1
#: Bytes of canonical JSON.
SUBMISSION_SIZE_MAX: Final = 1024 * 1024

_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_KEYS: Final = frozenset(
    {"v", "task", "run_id", "op", "select", "params", "issued_at", "expires_at", "nonce", "key_id"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One operation on any number of domains, as an operator asks for it."""

    #: Chosen by the caller, who finds the jobs by it; the same id again is a duplicate.
    run_id: str
    op: str
    #: Names, UUIDs, globs, @all, @host:NAME, @tag:NAME, !excluded; or a domain on one host.
    #: For a restore: the host alone, or nothing.
    select: tuple[str | DomainRef, ...]
    params: dict[str, Any]
    #: Aware, UTC, whole milliseconds.
    issued_at: datetime
    expires_at: datetime
    #: 32 hex digits.
    nonce: str
    key_id: str

    def to_bytes(self) -> bytes:
        """Return the canonical JSON: the bytes that the signature covers."""
        return format_document(
            {
                "v": SUBMISSION_VERSION,
                "task": SUBMIT_TASK,
                "run_id": self.run_id,
                "op": self.op,
                "select": [_format_choice(one) for one in self.select],
                "params": self.params,
                "issued_at": format_time(self.issued_at),
                "expires_at": format_time(self.expires_at),
                "nonce": self.nonce,
                "key_id": self.key_id,
            }
        )


def read_submission(document: bytes) -> Mapping[str, Any]:
    """Return the JSON object in the bytes; nothing in it is checked yet.

    Raises:
        RefusedJobError: reason malformed.
    """
    return read_object(document, what="submission", size_max=SUBMISSION_SIZE_MAX)


def parse_submission(document: Mapping[str, Any], *, now: datetime) -> Submission:
    """Return what the document asks for, if every field is of the right kind and it is in time.

    Raises:
        RefusedJobError: `reason` is malformed or expired.
    """
    if document.keys() != _KEYS:
        odd = sorted(str(key) for key in document.keys() ^ _KEYS)
        raise malformed("submission", f"missing or unknown keys {', '.join(odd)}", "exactly its keys")
    for key, (is_right, wanted) in _FIELDS.items():
        if not is_right(document[key]):
            raise malformed(key, document[key], wanted)
    issued_at, expires_at = read_times(document)
    submission = Submission(
        **{key: document[key] for key in ("run_id", "op", "nonce", "key_id")},
        select=tuple(_read_choice(one) for one in document["select"]),
        params=dict(document["params"]),
        issued_at=issued_at,
        expires_at=expires_at,
    )
    check_time(f"submission {submission.run_id}", issued_at, expires_at, now=now)
    return submission


def is_run_id(value: object) -> bool:
    """Tell whether the value can name a run."""
    return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None


def _format_choice(one: str | DomainRef) -> object:
    return one if isinstance(one, str) else {"domain": one.domain, "host": one.host}


def _read_choice(one: object) -> str | DomainRef:
    """Return a word, or a domain on a host."""
    if isinstance(one, str):
        try:
            check_selector([one])
        except ValueError as error:
            raise malformed("select", str(error), "words that mean something") from error
        return one
    if (
        not isinstance(one, dict)
        or one.keys() != {"domain", "host"}
        or not (one["domain"] is None or isinstance(one["domain"], str))
        or not (one["host"] is None or is_host_name(one["host"]))
    ):
        raise malformed("select", one, 'a word, or {"domain": NAME, "host": HOST}')
    return DomainRef(one["domain"], one["host"])


#: What can be said of each field alone, and how to say it.
_FIELDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "v": (lambda value: type(value) is int and value == SUBMISSION_VERSION, str(SUBMISSION_VERSION)),
    "task": (lambda value: value == SUBMIT_TASK, SUBMIT_TASK),
    "run_id": (is_run_id, "1 to 64 letters, digits and dashes"),
    "op": (
        lambda value: isinstance(value, str) and value in OPERATION_PARAMS,
        f"one of {', '.join(OPERATION_PARAMS)}",
    ),
    "select": (
        lambda value: isinstance(value, list) and len(value) <= WORDS_MAX,
        f"a list of at most {WORDS_MAX}",
    ),
    "params": (lambda value: isinstance(value, dict), "an object"),
    "nonce": (is_nonce, "32 hex digits"),
    "key_id": (is_key_id, "a key's id"),
}
