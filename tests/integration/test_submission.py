"""Submission by Celery alone: an operator's program, the control plane and a worker, each with its rights."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from redis import Redis
from redis.exceptions import NoPermissionError

from cli.sandbox import RedisServer
from tasks.catalog import SubmissionView, queries
from tasks.client import make_submission, send_submission
from tasks.events import apply_events
from tasks.keys import SigningKey, generate_key, read_signing_key, write_key
from tasks.redis_acl import control_user, new_password, operator_user
from tasks.states import JobState
from tasks.submission import SUBMIT_TASK
from tasks.wait import wait_jobs

pytestmark = pytest.mark.integration

_ROOT = Path(__file__).resolve().parents[2]


class ControlPlane:
    """The control plane's worker with the rights of the user control, and operator alice with hers."""

    def __init__(self, bench: Any, server: RedisServer, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.key = generate_key("alice-2026")
        self.key_file, _ = write_key(self.key, folder)
        passwords = {user.name: new_password() for user in (control_user(), operator_user("alice"))}
        users = (control_user(), operator_user("alice"))
        server.add_users("".join(user.format_line(passwords[user.name]) + "\n" for user in users))
        self.alice_url = server.url.replace("://", f"://operator-alice:{passwords['operator-alice']}@")
        self.config = folder / "control.toml"
        (folder / "control.password").write_text(passwords["control"])
        self.config.write_text(f"""
        broker_url = "{server.url}"
        catalog_url = "sqlite:///{folder}/catalog.sqlite"
        signing_key = "{folder}/control.key"
        [broker]
        username = "control"
        password_file = "{folder}/control.password"
        [roles.web-team]
        operations = ["save"]
        domains = ["web-*"]
        [operators.alice-2026]
        key = "{self.key.public.text}"
        roles = ["web-team"]
        """)
        self._log = folder / "control.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the control side's programs."""
        return {**os.environ, "PYTHONPATH": str(_ROOT), "FLEETSAVE_CONFIG": str(self.config)}

    def start(self) -> None:
        """Start the worker."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_ROOT / "tests" / "data" / "control_worker.py")],
                stdout=log, stderr=log, env=self.environment, cwd=self.folder,
            )  # fmt: skip

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of its log about an event."""
        assert self._process is not None
        text = self._log.read_text()
        assert self._process.poll() is None, text[-4000:]
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def end(self, number: signal.Signals) -> int:
        """End the worker; return its exit status."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(number)
        return process.wait(30)

    def close(self) -> None:
        """Kill it if it runs."""
        if self._process is not None:
            self.end(signal.SIGKILL)

    def outcome(self, run_id: str) -> SubmissionView | None:
        """Return what became of a submission."""
        return queries.find_submission(self.bench.catalog, run_id)


@pytest.fixture
def control(
    bench: Any, redis_server: RedisServer, tmp_path: Path, wait_until: Callable[..., Any]
) -> Iterator[ControlPlane]:
    """Give a control plane whose catalog knows the host's domains web-1 and wait-1."""

    def listed() -> bool:
        apply_events(bench.catalog, bench.redis, [bench.worker.host])
        return bool(queries.list_domains(bench.catalog, host=bench.worker.host))

    wait_until(listed, what="inventory")
    plane = ControlPlane(bench, redis_server, tmp_path)
    plane.start()
    try:
        wait_until(lambda: plane.said("control worker ready"), what="control worker")
        yield plane
    finally:
        plane.close()


@pytest.fixture
def program(control: ControlPlane) -> Iterator[Celery]:
    """Give an operator's own program: a Celery application that knows nothing of ours."""
    app = Celery("somebody-else", broker=control.alice_url, set_as_current=False)
    yield app
    app.close()


def send(
    control: ControlPlane, program: Celery, *words: str, key: SigningKey | None = None, **more: Any
) -> str:
    """Send a submission; return its id."""
    key = key or control.key
    return send_submission(program, make_submission(key, select=words, **{"op": "save"} | more), key)


def test_any_celery_program_submits_and_the_job_runs(
    control: ControlPlane, program: Celery, wait_until: Callable[..., Any]
) -> None:
    """One message in, one signed doorbell out for each domain; the caller finds the jobs by its id."""
    run_id = send(control, program, "web-*", params={"bypass_cache": "off"})
    found = wait_until(lambda: control.outcome(run_id))
    assert (found.state, found.job_count, found.key_id) == ("accepted", 1, "alice-2026")
    [job] = queries.list_jobs(control.bench.catalog, run_id=run_id)
    done = list(wait_jobs(control.bench.catalog, control.bench.redis, [job.job_id], timeout_seconds=20))[-1]
    assert done.state is JobState.SUCCEEDED
    assert done.domain == "web-1"
    assert control.bench.worker.metric("fleetsave_doorbells_total", result="bad_signature") == 0


def test_role_strangers_and_repetition(
    control: ControlPlane, program: Celery, wait_until: Callable[..., Any]
) -> None:
    """Refusals leave their reason; the same message again changes nothing."""
    submission = make_submission(control.key, op="save", select=["web-1"])
    for _ in range(3):
        send_submission(program, submission, control.key)
    forbidden = send(control, program, "wait-1")
    stranger = send(control, program, "web-1", key=generate_key("alice-2026"))
    program.send_task("os.system", args=["true"], queue=Queue("control", routing_key="control"))
    program.send_task(SUBMIT_TASK, kwargs={}, queue=Queue("control", routing_key="control"))
    last = send(control, program, "web-1", op="restore", params={"path": "/x"})

    wait_until(lambda: control.outcome(last))
    refused = control.outcome(forbidden)
    assert refused is not None
    assert (refused.state, refused.is_authentic) == ("refused", True)
    assert "wait-1" in str(refused.reason)
    assert control.outcome(stranger) is None
    assert [line["result"] for line in control.said("submission")] == [
        "accepted", "duplicate", "duplicate", "forbidden", "bad_signature", "malformed", "malformed",
    ]  # fmt: skip
    assert len(queries.list_jobs(control.bench.catalog)) == 1


def test_submission_waits_for_a_control_plane_that_is_down(
    control: ControlPlane, program: Celery, wait_until: Callable[..., Any]
) -> None:
    """The message stays in Redis; the signal that ends the worker is heeded."""
    assert control.end(signal.SIGTERM) == 0
    run_id = send(control, program, "web-1")
    control.start()
    assert wait_until(lambda: control.outcome(run_id)).state == "accepted"


def test_example_submits_and_the_command_line_finds_the_jobs(
    control: ControlPlane, wait_until: Callable[..., Any]
) -> None:
    """As docs/SECURITY.md shows it; a refusal is an error there."""

    def example(*words: str) -> str:
        script = _ROOT / "examples" / "submit_over_celery.py"
        done = subprocess.run(
            [sys.executable, str(script), control.alice_url, str(control.key_file), "save", *words],
            capture_output=True, text=True, check=True, timeout=60, env=control.environment,
        )  # fmt: skip
        return done.stdout.strip()

    def listed(run_id: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", "jobs", "list", "--run", run_id, "--json"],
            capture_output=True, text=True, check=False, timeout=60, env=control.environment,
        )  # fmt: skip

    accepted, refused = example("web-1"), example("@all")
    wait_until(lambda: control.outcome(refused))
    done = listed(accepted)
    assert [job["domain"] for job in json.loads(done.stdout)["jobs"]] == ["web-1"], done.stderr
    done = listed(refused)
    assert done.returncode == 41
    assert "wait-1" in json.loads(done.stdout)["error"]["message"]


def test_operator_reaches_no_host(control: ControlPlane) -> None:
    """With the credential alone: no doorbell, no look at anybody's queue, nothing else of Redis."""
    host = control.bench.worker.host
    with Redis.from_url(control.alice_url) as alice:
        for words in (
            ("LPUSH", f"host.{host}", "x"), ("LLEN", f"host.{host}"), ("BRPOP", "control", "1"),
            ("RPOP", "control"), ("LRANGE", "control", "0", "-1"), ("DEL", "control"), ("KEYS", "*"),
            ("XADD", f"events.{host}", "*", "event", "x"), ("CONFIG", "GET", "*"), ("FLUSHALL",),
            ("EVAL", "return 1", "0"), ("SET", f"cancel.{host}.x", "1"), ("PUBLISH", "c", "x"),
        ):  # fmt: skip
            with pytest.raises(NoPermissionError):
                alice.execute_command(*words)


def test_key_file_of_the_example_is_an_operators(control: ControlPlane) -> None:
    """The client reads what the command line makes."""
    assert read_signing_key(control.key_file) == control.key
