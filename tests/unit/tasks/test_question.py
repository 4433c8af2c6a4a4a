import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RefusedJobError
from tasks.keyring import Keyring
from tasks.keys import generate_key
from tasks.question import QUESTION_LIFETIME, Question, new_question, open_question

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = generate_key("control")
KEYRING = Keyring({KEY.key_id: KEY.public.text})
GOOD = replace(new_question("j1", 2, "alpha", now=NOW), key_id=KEY.key_id)


def ask(document: bytes, *, signature: object = None, host: str = "alpha", now: datetime = NOW) -> Question:
    """Open a question, signed unless told otherwise."""
    signed = KEY.sign(document) if signature is None else signature
    return open_question(document, signed, check=KEYRING.check, host=host, now=now)


def test_question_arrives_as_it_was_asked() -> None:
    """Canonical: the same bytes each time."""
    text = GOOD.to_bytes()
    assert ask(text) == GOOD
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
        ask(text, host=host, now=NOW + later)
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(text: bytes) -> None:
    """Whoever reaches the queue can put anything into it."""
    with pytest.raises(RefusedJobError):
        ask(text)


@pytest.mark.parametrize("signature", ["", "AAAA", KEY.sign(b"another document"), 7])
def test_question_of_a_stranger_is_refused(signature: object) -> None:
    """Its answer could be that a job is disowned."""
    with pytest.raises(RefusedJobError) as caught:
        ask(GOOD.to_bytes(), signature=signature)
    assert caught.value.reason == "bad_signature"


def test_question_that_was_changed_is_refused() -> None:
    """The signature covers every field."""
    text = GOOD.to_bytes()
    with pytest.raises(RefusedJobError) as caught:
        ask(text.replace(b'"j1"', b'"j2"'), signature=KEY.sign(text))
    assert caught.value.reason == "bad_signature"
