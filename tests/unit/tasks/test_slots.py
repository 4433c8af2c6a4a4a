import threading

from hypothesis import given
from hypothesis import strategies as st

from tasks.slots import Slots

OPS = ("save", "restore", "dump")


@given(
    parallel=st.integers(1, 4),
    limits=st.dictionaries(st.sampled_from(OPS), st.integers(1, 4)),
    moves=st.lists(st.tuples(st.booleans(), st.sampled_from(OPS)), max_size=40),
)
def test_never_more_than_the_host_allows(
    parallel: int, limits: dict[str, int], moves: list[tuple[bool, str]]
) -> None:
    """A permit is refused only where one limit or the other is reached."""
    slots, running = Slots(parallel, limits, threading.Event()), dict.fromkeys(OPS, 0)
    for takes, op in moves:
        if takes:
            has_room = sum(running.values()) < parallel and running[op] < limits.get(op, parallel)
            assert slots.take(op) is has_room
            running[op] += has_room
        elif running[op]:
            slots.give_back(op)
            running[op] -= 1


def test_job_that_runs_already_counts_and_its_end_is_told() -> None:
    """An adopted engine takes its place even where there is none."""
    told = threading.Event()
    slots = Slots(1, {}, told)
    slots.force("save")
    slots.force("save")
    assert not slots.take("restore")
    slots.give_back("save")
    assert told.is_set()
    assert not slots.take("restore")
    slots.give_back("save")
    assert slots.take("restore")
