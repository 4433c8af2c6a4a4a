from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.hosts import describe_drain
from tasks.catalog import HostView, JobView
from tasks.states import JobState

HOST = HostView(
    name="alpha", uri=None, worker_version=None, libvirt_version=None, qemu_version=None, store=None,
    store_free_bytes=None, store_used_bytes=None, libvirt_up=True, drain_requested_at=None, draining=False,
    seen_at=None,
)  # fmt: skip
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def job(state: JobState, host: str = "alpha") -> JobView:
    """Return a job in the state."""
    values: dict[str, Any] = dict.fromkeys(JobView.__slots__)
    return JobView(**(values | {"host": host, "state": state}))


RUNNING, COMMITTING, QUEUED = map(job, (JobState.RUNNING, JobState.COMMITTING, JobState.QUEUED))


@pytest.mark.parametrize(
    ("drain", "draining", "jobs", "said"),
    [
        (None, False, [], "-"),
        (None, False, [RUNNING, QUEUED, COMMITTING, job(JobState.RUNNING, "beta")], "2 running, 1 queued"),
        (T0, False, [], "draining"),
        (T0, True, [RUNNING, QUEUED], "draining, 1 running, 1 queued"),
        (T0, True, [QUEUED], "drained, 1 queued"),
        (T0, None, [], "draining"),
        (None, True, [], "-"),
    ],
)
def test_host_is_drained_when_it_says_so_and_runs_nothing(
    drain: datetime | None, draining: bool | None, jobs: list[JobView], said: str
) -> None:
    """Until then it drains; other hosts' jobs are not its own."""
    assert describe_drain(replace(HOST, drain_requested_at=drain, draining=draining), jobs) == said
