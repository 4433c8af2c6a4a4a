import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RefusedJobError
from tasks.question import QUESTION_LIFETIME, new_question, parse_question

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = new_question("j1", 2, "alpha", now=NOW)


def test_question_arrives_as_it_was_asked() -> None:
    """Canonical: the same bytes each time."""
    text = GOOD.to_bytes()
    assert parse_question(text, host="alpha", now=NOW) == GOOD
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode() == text


@pytest.mark.parametrize(
    ("changes", "host", "later", "reason"),
    [
        ({}, "beta", timedelta(0), "wrong_host"),
        ({}, "alpha", QUESTION_LIFETIME, "expired"),
        ({"attempt": 0}, "alpha", timedelta(0), "malformed"),
        ({"attempt": True}, "alpha", timedelta(0), "malformed"),
        ({"job_id": 7}, "alpha", timedelta(0), "malformed"),
        ({"job_id": ""}, "alpha", timedelta(0), "malformed"),
        ({"expires_at": "2026-02-01"}, "alpha", timedelta(0), "malformed"),
        ({"v": 2}, "alpha", timedelta(0), "malformed"),
        ({"extra": 1}, "alpha", timedelta(0), "malformed"),
        ({"nonce": "x" * 5000}, "alpha", timedelta(0), "malformed"),
    ],
)
def test_question_that_is_no_good_is_refused(
    changes: dict[str, Any], host: str, later: timedelta, reason: str
) -> None:
    """With the reason, as a doorbell is."""
    text = json.dumps(json.loads(GOOD.to_bytes()) | changes).encode()
    with pytest.raises(RefusedJobError) as caught:
        parse_question(text, host=host, now=NOW + later)
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(text: bytes) -> None:
    """Whoever reaches the queue can put anything into it."""
    with pytest.raises(RefusedJobError):
        parse_question(text, host="alpha", now=NOW)
