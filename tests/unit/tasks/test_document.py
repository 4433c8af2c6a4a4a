from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.document import (
    CLOCK_SKEW_MAX,
    LIFETIME_MAX,
    check_time,
    format_document,
    read_object,
)
from tasks.errors import RefusedJobError

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), VALUES, max_size=4)


def why(issued_at: datetime, expires_at: datetime) -> str | None:
    """Return the reason for which a document is refused."""
    try:
        check_time("x", issued_at, expires_at, now=NOW)
    except RefusedJobError as error:
        return error.reason
    return None


@given(OBJECTS)
def test_one_value_has_one_text(document: dict[str, object]) -> None:
    """Whatever the order of its keys; reading gives it back."""
    text = format_document(document)
    assert format_document(dict(reversed(document.items()))) == text
    assert read_object(text, what="x", size_max=10**6) == document
    assert b"\n" not in text


def test_number_that_json_does_not_know_is_not_written() -> None:
    """Others could not read it."""
    with pytest.raises(ValueError, match="JSON"):
        format_document({"a": float("nan")})


@pytest.mark.parametrize(
    ("issued_at", "expires_at", "reason"),
    [
        (NOW, NOW + HOUR, None),
        (NOW - HOUR, NOW + MILLISECOND, None),
        (NOW - HOUR, NOW, "expired"),
        (NOW + CLOCK_SKEW_MAX, NOW + HOUR, None),
        (NOW + CLOCK_SKEW_MAX + MILLISECOND, NOW + HOUR, "expired"),
        (NOW, NOW + LIFETIME_MAX, None),
        (NOW, NOW + LIFETIME_MAX + MILLISECOND, "malformed"),
    ],
)
def test_document_is_good_for_its_time(issued_at: datetime, expires_at: datetime, reason: str | None) -> None:
    """Not after its end, not long before its beginning, and not for ever."""
    assert why(issued_at, expires_at) == reason
