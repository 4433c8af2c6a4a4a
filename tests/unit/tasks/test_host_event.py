from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.host_event import EventKind, HostEvent, parse_event

AT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def event(**changes: Any) -> HostEvent:
    """Return a state event."""
    values: dict[str, Any] = {
        "host": "alpha",
        "kind": EventKind.STATE,
        "at": AT,
        "body": {"state": "running"},
        "job_id": "j",
        "attempt": 1,
        "seq": 1,
    }
    return HostEvent(**(values | changes))


def test_event_is_read_as_it_was_written() -> None:
    """To the microsecond."""
    assert parse_event(event().to_json()) == event()
    inventory = HostEvent(host="alpha", kind=EventKind.INVENTORY, at=AT, body={"facts": {}, "domains": None})
    assert parse_event(inventory.to_json()) == inventory


@given(
    st.text()
    | st.dictionaries(st.sampled_from(["v", "kind", "at", "host", "body"]), st.none() | st.just(1)).map(str)
)
def test_any_text_is_refused_with_value_error(text: str) -> None:
    """One bad entry must not stop the stream."""
    with pytest.raises(ValueError):  # noqa: PT011
        parse_event(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 0},
        {"seq": None},
        {"attempt": "1"},
        {"job_id": None},
        {"body": {"state": "asleep"}},
        {"body": []},
    ],
)
def test_event_that_cannot_be_applied_is_refused(changes: dict[str, Any]) -> None:
    """Before it reaches the catalog."""
    with pytest.raises(ValueError, match=r"wrong kind|not a valid"):
        parse_event(event(**changes).to_json())
