from itertools import product

from tasks.states import FINAL, REPEATABLE, TRANSITIONS, UNFINISHED, JobState, is_later, is_newer, is_step


def test_final_states_are_the_four_ends() -> None:
    """Nothing follows them; something follows each of the others."""
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST} == FINAL
    assert set(JobState) == FINAL | UNFINISHED
    assert all(TRANSITIONS[state] == frozenset() for state in FINAL)


def test_every_state_can_be_reached_from_queued() -> None:
    """The table has no island."""
    assert {state for state in JobState if is_later(JobState.QUEUED, state)} == set(JobState) - {
        JobState.QUEUED
    }


def test_no_state_is_later_than_itself() -> None:
    """A job never goes round in a circle."""
    assert not any(is_later(state, state) for state in JobState)


def test_later_is_what_steps_lead_to() -> None:
    """Of every pair: a step is later, later excludes its reverse, final states have nothing later."""
    for old, new in product(JobState, JobState):
        assert not is_step(old, new) or is_later(old, new)
        assert not (is_later(old, new) and is_later(new, old))
        assert not (old in FINAL and is_later(old, new))


def test_success_comes_through_committing_only() -> None:
    """Nobody skips the point of no return."""
    assert [state for state in JobState if is_step(state, JobState.SUCCEEDED)] == [JobState.COMMITTING]
    assert [state for state in JobState if is_step(state, JobState.COMMITTING)] == [JobState.RUNNING]


def test_report_is_newer_by_attempt_then_by_state() -> None:
    """Nothing is newer than an end; what is newer is never so the other way round."""
    points = list(product((1, 2), JobState))
    for old, new in product(points, points):
        if old[1] in FINAL or new[0] < old[0]:
            assert not is_newer(old, new)
        else:
            assert is_newer(old, new) == (new[0] > old[0] or is_later(old[1], new[1]))
        assert not (is_newer(old, new) and is_newer(new, old))


def test_only_before_the_point_of_no_return_a_job_is_tried_again() -> None:
    """Of the unfinished states all but committing."""
    assert UNFINISHED - {JobState.COMMITTING} == REPEATABLE
