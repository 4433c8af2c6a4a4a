"""What a dead worker and its dead engine leave, with real worker processes, Redis and catalog."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.catalog import JobView, queries
from tasks.events import apply_events
from tasks.states import JobState
from tasks.submit import DomainRef, submit
from tasks.wait import wait_jobs
from tests.data.dead_engine import leave_image

pytestmark = pytest.mark.integration


@pytest.fixture
def job(bench: Any, wait_until: Callable[..., Any]) -> JobView:
    """Give a save whose engine stands in mid-stream."""

    def listed() -> bool:
        apply_events(bench.catalog, bench.redis, [bench.worker.host])
        return bool(queries.list_domains(bench.catalog, host=bench.worker.host))

    wait_until(listed, what="inventory")
    [made] = submit(bench.catalog, bench.app, op="save", domains=[DomainRef("wait-1", bench.worker.host)])
    wait_until(bench.worker.engine_starts, what="engine")
    return made


def end_of(bench: Any, job: JobView) -> JobView:
    """Wait for the end of a job and return it."""
    return list(wait_jobs(bench.catalog, bench.redis, [job.job_id], timeout_seconds=20))[-1]


def kill_engine(bench: Any) -> None:
    """Kill the engine that was started last."""
    os.kill(bench.worker.engine_starts()[-1][1], signal.SIGKILL)


@pytest.mark.parametrize("worker_dies", [True, False])
@pytest.mark.parametrize(
    ("state", "ending", "kind"),
    [("prepared", JobState.SUCCEEDED, "published"), ("writing", JobState.FAILED, "discarded")],
)
def test_job_of_a_dead_engine_ends_as_its_image_says(  # noqa: PLR0917
    bench: Any, job: JobView, worker_dies: bool, state: str, ending: JobState, kind: str
) -> None:
    """Published or put back, by the worker that lives or by the next one; the catalog hears of it."""
    store = Path(bench.worker.folder, "store")
    leave_image(store, job.job_id, state=state)

    if worker_dies:
        bench.worker.end(signal.SIGKILL)
    kill_engine(bench)
    if worker_dies:
        bench.worker.start()

    done = end_of(bench, job)
    assert done.state is ending
    assert bench.worker.metric("fleetsave_recoveries_total", kind=kind) == 1
    assert bench.worker.metric("fleetsave_jobs_total", op="save", outcome=str(ending)) == 1
    assert list((store / ".staging").iterdir()) == []
    points = queries.list_restore_points(bench.catalog, host=bench.worker.host)
    assert [point.job_id for point in points] == ([job.job_id] if kind == "published" else [])


def test_image_of_an_engine_that_outlives_its_worker_is_left_to_it(bench: Any, job: JobView) -> None:
    """The next worker follows it to its end."""
    bench.worker.end(signal.SIGKILL)
    bench.worker.start()
    bench.worker.say_go()

    assert end_of(bench, job).state is JobState.SUCCEEDED
    assert bench.worker.metric("fleetsave_recoveries_total", kind="adopted") == 1
