from typing import Any

import pytest

from cli.cancel import _code, _exit_code
from tasks.cancel import Answer, Cancellation
from tasks.catalog import JobView
from tasks.states import JobState


def told(answer: Answer, state: JobState, code: int | None = None) -> tuple[Cancellation, JobView]:
    """Return an answer and the job as it stands afterwards."""
    values: dict[str, Any] = dict.fromkeys(JobView.__slots__)
    error = None if code is None else {"code": code}
    view = JobView(**(values | {"job_id": "j", "op": "save", "domain": "d", "state": state, "error": error}))
    return Cancellation(job=view, answer=answer), view


AT_ONCE = told(Answer.CANCELLED, JobState.CANCELLED, 130)
STOPPED = told(Answer.ASKED, JobState.CANCELLED, 130)
TOO_LATE = told(Answer.ASKED, JobState.SUCCEEDED)
GOES_ON = told(Answer.ASKED, JobState.RUNNING)
WAS_OVER = told(Answer.WAS_FINAL, JobState.FAILED, 21)
BROKE = told(Answer.ASKED, JobState.FAILED, 30)
LOST = told(Answer.ASKED, JobState.LOST)


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([], 0),
        ([AT_ONCE, STOPPED, TOO_LATE, GOES_ON], 0),
        ([WAS_OVER], 33),
        ([WAS_OVER, WAS_OVER], 33),
        ([STOPPED, WAS_OVER], 3),
        ([BROKE], 30),
        ([LOST], 1),
        ([BROKE, LOST], 3),
    ],
)
def test_exit_code_says_whether_all_were_stopped(ends: list[tuple[Cancellation, JobView]], code: int) -> None:
    """0 also where a job finished in time, 33 where nothing was left to stop, 3 where they differ."""
    assert _exit_code([_code(one, job) for one, job in ends]) == code
