import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.process import EngineProcess, read_last_line

SLEEPER = (
    sys.executable,
    "-c",
    "import sys; sys.stdin.read(); print('ready', flush=True); import time; time.sleep(60)",
)


def start(folder: Path, command: tuple[str, ...] = SLEEPER, request: str = "") -> EngineProcess:
    """Start a process in the folder."""
    return EngineProcess.start(
        command, request, folder=folder, environment=dict(os.environ), on_started=lambda _pid, _ticks: None
    )


def test_process_is_found_by_pid_and_start_ticks(tmp_path: Path) -> None:
    """Only by both: a pid alone may have been given away again."""
    process = start(tmp_path)
    try:
        found = EngineProcess.find(process.pid, process.start_ticks)
        assert found is not None
        assert not found.wait_exit(0)
        assert EngineProcess.find(process.pid, process.start_ticks + 1) is None
        process.kill()
        assert found.wait_exit(10)
        assert process.describe_exit() == "the engine was killed by SIGKILL"
        assert "without a result" in found.describe_exit()
        assert EngineProcess.find(process.pid, process.start_ticks) is None
        found.close()
    finally:
        process.kill()
        process.close()


def test_process_that_nobody_waited_for_is_not_alive(tmp_path: Path) -> None:
    """Where init does not reap, dead engines stay visible as zombies."""
    process = start(tmp_path)
    process.kill()
    assert process.wait_exit(10)
    assert EngineProcess.find(process.pid, process.start_ticks) is None
    process.describe_exit()
    process.close()


def test_pid_that_never_was_is_not_found() -> None:
    """No such process is an answer, not an error."""
    with subprocess.Popen(["true"]) as gone:
        pass
    assert EngineProcess.find(gone.pid, 1) is None


def test_engine_is_in_a_session_of_its_own_and_reads_its_request(tmp_path: Path) -> None:
    """Signals to the worker's terminal do not reach it; its files are private."""
    code = "import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read(), os.getcwd(), flush=True)"
    process = start(tmp_path, (sys.executable, "-c", code), "hello")
    assert process.wait_exit(20)
    assert process.describe_exit() == "the engine ended with exit status 0 and without a result"
    process.close()
    events = tmp_path / "events.jsonl"
    assert events.read_text() == f"True hello {tmp_path}\n"
    assert events.stat().st_mode & 0o777 == 0o600


def test_engine_without_a_record_gets_no_request(tmp_path: Path) -> None:
    """The journal fails: the engine is killed before it has read anything."""
    code = "import sys; text = sys.stdin.read(); print('read', text, flush=True)"

    def fail(_pid: int, _ticks: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        EngineProcess.start(
            (sys.executable, "-c", code), "x" * 1_000_000, folder=tmp_path, environment={}, on_started=fail
        )
    assert (tmp_path / "events.jsonl").read_text() in {"", "read \n"}


def test_engine_that_dies_before_reading_is_found_out_by_its_exit(tmp_path: Path) -> None:
    """A broken pipe is not the error; the exit is."""
    process = start(tmp_path, (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), "x" * 1_000_000)
    assert process.wait_exit(20)
    assert process.describe_exit() == f"the engine was killed by {signal.SIGKILL.name}"
    process.close()


def test_last_line_is_the_last_that_is_not_blank(tmp_path: Path) -> None:
    """Of however long a log."""
    log = tmp_path / "log"
    assert read_last_line(log) == ""
    log.write_text("x" * 20_000 + "\nOSError: no space\n  \n\n")
    assert read_last_line(log) == "OSError: no space"
