import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.limits import Deadlines
from tasks.states import JobState
from tasks.stopping import STOP_SECONDS, Measure, Stopping, find_queue_overrun


def judge(
    stopping: Stopping, now: float, *, is_cancelled: bool = False, is_committing: bool = False
) -> Measure:
    """Judge a job that nobody wants stopped unless told."""
    return stopping.judge(now=now, is_cancelled=is_cancelled, is_committing=is_committing)


def test_cancel_asks_once_then_waits_then_kills() -> None:
    """The engine has its time to put the guest back."""
    stopping = Stopping(Deadlines(), now=100.0)
    assert judge(stopping, 101.0) is Measure.NOTHING
    assert judge(stopping, 102.0, is_cancelled=True) is Measure.ASK
    assert judge(stopping, 102.0 + STOP_SECONDS, is_cancelled=True) is Measure.NOTHING
    assert judge(stopping, 102.1 + STOP_SECONDS, is_cancelled=True) is Measure.KILL
    assert stopping.wish is not None
    assert stopping.wish.state is JobState.CANCELLED


def test_stall_counts_from_the_last_move() -> None:
    """A byte or a step; the job fails then."""
    stopping = Stopping(Deadlines(max_stall=10), now=0.0)
    assert judge(stopping, 10.0) is Measure.NOTHING
    stopping.note_move(10.0)
    assert judge(stopping, 20.0) is Measure.NOTHING
    assert judge(stopping, 20.1) is Measure.ASK
    assert stopping.wish is not None
    assert (stopping.wish.state, stopping.wish.sentence) == (
        JobState.FAILED, "came no further for 10.1 s, want at most 10 s",
    )  # fmt: skip


def test_duration_counts_from_the_start_under_an_earlier_worker() -> None:
    """A restart of the worker gives no job more time."""
    stopping = Stopping(Deadlines(max_duration=3600), now=50.0, elapsed=3500.0)
    assert judge(stopping, 150.0) is Measure.NOTHING
    assert judge(stopping, 151.0) is Measure.ASK
    assert stopping.wish is not None
    assert stopping.wish.sentence == "ran for 1 h 1 s, want at most 1 h"


def test_clock_that_was_set_back_gives_no_time_before_the_start() -> None:
    """A job cannot have run for less than nothing."""
    stopping = Stopping(Deadlines(max_duration=10), now=0.0, elapsed=-100.0)
    assert judge(stopping, 11.0) is Measure.ASK


@given(
    steps=st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.booleans(), st.booleans()), max_size=30),
    deadlines=st.builds(Deadlines, max_duration=st.none() | st.floats(1, 500), max_stall=st.just(20.0)),
)
def test_whatever_happens_nothing_is_done_past_the_point_of_no_return(
    steps: list[tuple[float, bool, bool, bool]], deadlines: Deadlines
) -> None:
    """And never a kill before it was asked, nor asked twice."""
    stopping, now, asked = Stopping(deadlines, now=0.0), 0.0, 0
    for pause, is_cancelled, is_committing, moves in steps:
        now += pause
        if moves:
            stopping.note_move(now)
        measure = judge(stopping, now, is_cancelled=is_cancelled, is_committing=is_committing)
        assert not (is_committing and measure is not Measure.NOTHING)
        assert measure is not Measure.KILL or asked == 1
        asked += measure is Measure.ASK
        assert asked <= 1


@pytest.mark.parametrize(
    ("waited", "most", "said"),
    [
        (7200, 7200, None),
        (5, None, None),
        (7261, 7200, "waited in the queue for 2 h 1 min 1 s, want at most 2 h"),
    ],
)
def test_queue_wait_is_said_as_people_say_it(waited: float, most: float | None, said: str | None) -> None:
    """With what was and what may be."""
    assert find_queue_overrun(waited, Deadlines(max_queue_wait=most)) == said
