from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RefusedJobError
from tasks.limits import BACKOFF_MAX, DEADLINE_PARAMS, Deadlines, RetryPolicy, may_repeat
from tasks.params import OPERATION_PARAMS, check_params

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = st.none() | st.floats(0.001, 1e6)
DEADLINES = st.builds(Deadlines, max_queue_wait=SECONDS, max_duration=SECONDS, max_stall=SECONDS)


@given(a=DEADLINES, b=DEADLINES)
def test_shorter_deadline_holds(a: Deadlines, b: Deadlines) -> None:
    """Whoever says it; none is no deadline."""
    both = a.tightened(b)
    assert both == b.tightened(a)
    assert a.tightened(Deadlines()) == a
    for key in DEADLINE_PARAMS:
        said = [value for value in (getattr(a, key), getattr(b, key)) if value is not None]
        assert getattr(both, key) == min(said, default=None)


@given(attempts=st.integers(1, 100), backoff=st.floats(0.001, 1e6))
def test_attempts_end_and_their_pauses_grow(attempts: int, backoff: float) -> None:
    """Each pause is twice the one before, up to the longest; the last attempt has none after it."""
    policy = RetryPolicy(attempts=attempts, backoff=backoff)
    dues = [policy.find_due(attempt, T0) for attempt in range(1, attempts + 1)]
    assert dues[-1] is None
    assert None not in dues[:-1]
    pauses = [due - T0 for due in dues if due is not None]
    assert pauses == sorted(pauses)
    assert all(pause <= timedelta(seconds=BACKOFF_MAX) for pause in pauses)
    for shorter, longer in pairwise(pauses):
        is_doubled = abs(longer - 2 * shorter) < timedelta(microseconds=3)
        assert is_doubled or longer == timedelta(seconds=BACKOFF_MAX)


@pytest.mark.parametrize(
    ("op", "params", "steps", "wanted"),
    [
        ("save", {}, {"preflight", "call", "prepared"}, True),
        ("save", {}, {"preflight", "call", "commit"}, False),
        ("checkpoint", {}, {"commit"}, False),
        ("restore", {}, {"preflight"}, True),
        ("restore", {}, {"preflight", "call"}, False),
        ("start", {}, {"call"}, False),
        ("managed-save", {}, {"call"}, False),
        ("managed-save", {}, set(), True),
        ("dump", {}, {"call"}, True),
        ("dump", {"crash": True}, {"call"}, False),
        ("dump", {"reset": True}, {"call"}, False),
        ("dump", {"reset": True}, {"staging"}, True),
    ],
)
def test_what_cannot_be_taken_back_is_not_repeated(
    op: str, params: dict[str, Any], steps: set[str], wanted: bool
) -> None:
    """Once its first irreversible step was recorded, whether it was taken or not."""
    assert may_repeat(op, params, steps) is wanted


@pytest.mark.parametrize("op", OPERATION_PARAMS)
def test_every_operation_may_be_told_of_time_and_attempts(op: str) -> None:
    """In the parameters of its jobs."""
    needed = {"restore": {"path": "/a"}, "dump": {"to": "/a"}}.get(op, {})
    times = {"max_queue_wait": 1, "max_duration": 2.5, "max_stall": None}
    check_params(
        op,
        needed | times | {"retry": {"attempts": 3, "backoff": 60}, "queued_at": "2026-01-31T23:59:59.000Z"},
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_stall": 0},
        {"max_stall": True},
        {"max_duration": float("nan")},
        {"max_duration": 1e9},
        {"max_queue_wait": "2h"},
        {"retry": 3},
        {"retry": {}},
        {"retry": {"attempts": 0}},
        {"retry": {"attempts": 101}},
        {"retry": {"attempts": 2, "backoff": 0}},
        {"retry": {"attempts": 2, "more": 1}},
        {"queued_at": "yesterday"},
        {"queued_at": "2026-02-31T23:59:59.000Z"},
    ],
)
def test_wrong_limits_are_refused_by_name(wrong: dict[str, Any]) -> None:
    """The sentence says which key."""
    with pytest.raises(RefusedJobError, match=next(iter(wrong))):
        check_params("save", wrong)
