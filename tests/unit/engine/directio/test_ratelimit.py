from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.directio.ratelimit import RateLimit


class Clock:
    """Time that passes only when somebody waits, or is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def pause(self, seconds: float) -> bool:
        """Let so many seconds pass."""
        assert seconds > 0
        self.now += seconds
        self.waited += seconds
        return False


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 5)), max_size=20))
def test_average_never_exceeds_the_rate(rate: int, steps: list[tuple[int, float]]) -> None:
    """Since the first byte no more has passed than the rate allows, and no wait is longer than that."""
    clock = Clock()
    limit = RateLimit(rate, clock)
    passed = 0

    for size, idle in steps:
        clock.now += idle
        limit.wait(size, clock.pause)
        passed += size

        assert clock.now - 1000.0 >= passed / rate - 1e-3
    assert clock.waited <= passed / rate + 1e-3


@pytest.mark.parametrize("rate", [1, 1000])
def test_pause_that_is_broken_off_ends_the_wait(rate: int) -> None:
    """A cancelled transfer does not sit out its rate."""
    asked: list[float] = []
    limit = RateLimit(rate, Clock())

    def broken_off(seconds: float) -> bool:
        asked.append(seconds)
        return True

    limit.wait(10_000, broken_off)

    assert len(asked) == 1
