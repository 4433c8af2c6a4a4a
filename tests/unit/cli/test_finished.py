from datetime import UTC, datetime
from typing import Any

import pytest

from cli.finished import COLUMNS, Finished, exit_code_of, of_job
from engine.errors import NoDomainError, WrongStateError
from tasks.catalog import JobView
from tasks.states import JobState

RESULT: dict[str, Any] = {
    "op": "save",
    "job_id": "7" * 32,
    "domain": "web-1",
    "host": "alpha",
    "path": "/store/u/20260131T220000Z-7777",
    "bytes": 100 * 1024 * 1024,
    "duration_seconds": 2.04,
    "guest_paused_seconds": 0.85,
    "throughput_bytes_per_second": 200 * 1024 * 1024,
    "bypass_cache": {"resident_bytes": 0},
    "state": "saved",
}


def _done(**fields: Any) -> Finished:
    return Finished(op="save", label="web-1", host="alpha", **fields)


def _job(state: JobState, **fields: Any) -> JobView:
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        **dict.fromkeys(JobView.__slots__),
        "job_id": "7" * 32,
        "op": "save",
        "host": "alpha",
        "domain": "web-1",
        "params": {},
        "attempt": 1,
        "created_at": now,
        "state": state,
        **fields,
    }
    return JobView(**values)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0], 0), ([0, 0], 0), ([31], 31), ([31, 31], 31), ([0, 31], 3), ([31, 33], 3), ([0, 130], 3)],
)
def test_exit_code_of_several(codes: list[int], expected: int) -> None:
    """All well: 0; all failed alike: that; anything between: 3."""
    assert exit_code_of([_done(error={"code": code} if code else None) for code in codes]) == expected


def test_success_is_the_result_and_where_the_job_stands() -> None:
    """The keys of the result object are the document's own, not nested."""
    assert _done(result=RESULT).to_dict() == RESULT
    assert _done(result=RESULT, job_state=JobState.SUCCEEDED).to_dict() == RESULT | {"job_state": "succeeded"}


def test_failure_says_which_domain_and_why() -> None:
    """A script that asked for many finds the one that failed."""
    error = NoDomainError("web-1", "no such domain").to_dict()

    assert _done(error=error).to_dict() == {"op": "save", "domain": "web-1", "host": "alpha", "error": error}


def test_failed_restore_names_the_image_not_a_domain() -> None:
    """Which domain it would have been stands in an image that may not even be one."""
    failed = Finished(op="restore", label="/a.save", host="alpha", error={"code": 10})

    assert failed.to_dict()["path"] == "/a.save"
    assert "domain" not in failed.to_dict()


def test_line_says_size_time_rate_pause_cache_and_path() -> None:
    """One line in a pipe tells everything that the table does."""
    assert _done(result=RESULT).line() == (
        "web-1: saved on alpha, 100.0 MiB in 2.0 s, 200.0 MiB/s, guest paused 850 ms, 0 B in page cache: "
        "/store/u/20260131T220000Z-7777"
    )


def test_line_of_a_boot_claims_nothing_about_the_page_cache() -> None:
    """No image was read, so there is nothing to measure."""
    booted = RESULT | {"op": "start", "bytes": 0, "path": "", "state": "running", "duration_seconds": 0.27}

    line = Finished(op="start", label="web-1", host="alpha", result=booted).line()

    assert line == "web-1: started on alpha, in 270 ms, now running"


def test_rows_fit_their_columns() -> None:
    """Failed, queued and done operations have the same cells."""
    states = (_done(result=RESULT), _done(error={"code": 33}), _done(job_state=JobState.QUEUED))

    assert {len(one.row()) for one in states} == {len(COLUMNS)}
    assert states[1].row()[-1] == "failed (33)"


def test_succeeded_job_has_its_result() -> None:
    """What the engine measured on the host is what the command prints."""
    finished = of_job(_job(JobState.SUCCEEDED, result=RESULT))

    assert finished.exit_code == 0
    assert finished.to_dict()["bytes"] == RESULT["bytes"]


def test_failed_job_has_the_engine_s_error() -> None:
    """The exit code on the control side is the engine's on the host."""
    error = WrongStateError("web-1", "shut off").to_dict()

    assert of_job(_job(JobState.FAILED, error=error, reason="shut off")).exit_code == 33


@pytest.mark.parametrize(
    ("state", "code"), [(JobState.LOST, 1), (JobState.FAILED, 1), (JobState.CANCELLED, 130)]
)
def test_bad_end_without_an_error_object_still_has_a_code_and_a_reason(state: JobState, code: int) -> None:
    """No job that ended badly may look like one that ended well."""
    finished = of_job(_job(state, reason="the host burnt down"))

    assert finished.exit_code == code
    assert finished.error is not None
    assert "burnt down" in finished.error["message"]


def test_unfinished_job_is_neither() -> None:
    """With --no-wait a job is on its way, and that is no failure."""
    finished = of_job(_job(JobState.QUEUED))

    assert finished.exit_code == 0
    assert finished.to_dict()["job_state"] == "queued"
