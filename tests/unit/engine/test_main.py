"""Run the engine as the supervisor does: a process, a request on stdin, events on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine import __main__ as main_module
from engine.__main__ import EventWriter
from engine.cancel import CancelToken
from engine.steps import Step

_ROOT = Path(__file__).resolve().parents[3]
#: A connection of libvirt's own test driver: no daemon, one running domain called "test".
URI = "test:///default"


def start(**streams: Any) -> subprocess.Popen[bytes]:
    """Start an engine."""
    return subprocess.Popen(
        [sys.executable, "-m", "engine"],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )


def request(folder: Path, **changes: Any) -> bytes:
    """Return a request for a host of no importance."""
    document = {"op": "save", "job_id": "job-1", "host": "alpha", "uri": URI, "domain": "test"}
    return json.dumps(document | {"runtime_dir": str(folder / "run")} | changes).encode()


def run(data: bytes) -> tuple[int, list[dict[str, Any]], str]:
    """Return exit status, events and what was said on stderr."""
    with start() as process:
        out, err = process.communicate(data, 60)
    lines = out.decode().splitlines(keepends=True)
    assert all(line.endswith("\n") for line in lines)
    events = [json.loads(line) for line in lines]
    assert all(isinstance(event, dict) for event in events)
    return process.returncode, events, err.decode()


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", b"[]", b"{}", b'{"op": "save"}', b"\xff\xfe", b"[" * 100_000, b'{"v": 2}', b"\0"],
)
def test_malformed_request_is_a_usage_error(data: bytes) -> None:
    """Whatever comes in: one error event in JSON, exit status 2, no traceback."""
    status, events, err = run(data)

    assert status == 2
    assert [event["event"] for event in events] == ["error"]
    assert events[0]["error"]["class"] == "InvalidArgumentError"
    assert events[0]["error"]["code"] == 2
    assert err == ""


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({"to": "{}/missing/a.save"}, "StorageError", 20),
        ({"to": "{}/a.save", "allowed_roots": ["/srv"]}, "PathNotAllowedError", 23),
        ({"to": "{}/a.save", "uri": "test:///none.xml"}, "HypervisorUnreachableError", 30),
        ({"to": "{}/a.save", "domain": "none"}, "NoDomainError", 31),
        ({"op": "start"}, "WrongStateError", 33),
        ({"to": "{}/a.save"}, "NotSupportedError", 34),
        ({"op": "checkpoint", "to": "{}/a.save"}, "NotSupportedError", 34),
        ({"op": "restore", "path": "{}/none.save"}, "StorageError", 20),
        ({"to": "{}/a.save", "running": True, "paused": True}, "InvalidArgumentError", 2),
        ({}, "InvalidArgumentError", 2),
    ],
)
def test_exit_status_is_that_of_the_error(
    tmp_path: Path, changes: dict[str, Any], name: str, status: int
) -> None:
    """The last event has the error, the exit status its code; nothing was made."""
    filled = {
        key: value.format(tmp_path) if isinstance(value, str) else value for key, value in changes.items()
    }

    found, events, _ = run(request(tmp_path, **filled))

    assert (found, events[-1]["event"]) == (status, "error")
    assert (events[-1]["error"]["class"], events[-1]["error"]["code"]) == (name, status)
    assert not list(tmp_path.glob("*.save")) + list(tmp_path.glob(".fleetsave*"))


def test_success_ends_with_a_result(tmp_path: Path) -> None:
    """Steps in their order, each with a time, then the result; exit status 0."""
    status, events, err = run(request(tmp_path, op="managed-save", bypass_cache="off"))

    assert (status, err) == (0, "")
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == ["preflight", "call", "commit", "committed", "done"]
    assert events[-1]["event"] == "result"
    assert events[-1]["result"]["op"] == "managed-save"
    assert events[-1]["result"]["job_id"] == "job-1"
    assert all(datetime.fromisoformat(event["at"]).utcoffset() is not None for event in events)


def test_reader_that_has_gone_does_not_hurt(tmp_path: Path) -> None:
    """Nobody listens any more: the operation is done all the same, and its events go to stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    with start(stdout=writer) as process:
        os.close(writer)
        _, err = process.communicate(request(tmp_path, op="managed-save", bypass_cache="off"), 60)

    assert process.returncode == 0
    assert b"event lost (Broken pipe)" in err
    assert b'"event": "result"' in err


def test_nobody_listening_at_all_does_not_hurt(tmp_path: Path) -> None:
    """Stdout and stderr are gone, both: the operation is done all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    with start(stdout=writer, stderr=writer) as process:
        os.close(writer)
        process.communicate(request(tmp_path, op="managed-save", bypass_cache="off"), 60)

    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_cancels(tmp_path: Path, number: signal.Signals) -> None:
    """A signal ends the operation in good order: status 130, and the error says which signal it was."""
    with start() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        held = request(tmp_path, op="managed-save", bypass_cache="off", hold_at="preflight")
        process.stdin.write(held)
        process.stdin.close()
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        last = json.loads(process.stdout.readlines()[-1])
        status = process.wait(60)

    assert first["step"] == "preflight"
    assert status == 130
    assert last["error"]["class"] == "CancelledError"
    assert number.name in last["error"]["message"]


def read_all(fd: int) -> list[dict[str, Any]]:
    """Return the events that were written to a pipe."""
    return [json.loads(line) for line in os.read(fd, 1 << 16).decode().splitlines()]


def test_events_of_an_observer_are_lines() -> None:
    """Steps, bytes and pauses, whatever is in them, are one object a line."""
    reader, writer = os.pipe()
    events = EventWriter(writer)

    events.step(Step.CALL)
    events.progress(1, None)
    events.progress(2, 10)
    events.guest("paused")
    events.write("error", error={"message": "two\nlines \u2028 and \ud800"})

    os.close(writer)
    found = read_all(reader)
    os.close(reader)
    assert [event["event"] for event in found] == ["step", "progress", "guest", "error"]
    assert found[0]["step"] == "call"
    # The second came too soon after the first.
    assert (found[1]["bytes"], found[1]["total"]) == (1, None)
    assert found[2]["state"] == "paused"
    assert found[3]["error"]["message"] == "two\nlines \u2028 and \ud800"


def test_event_that_the_kernel_takes_in_pieces_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes a part is gone on with: no line is ever cut."""
    written = bytearray()

    class ShortOs:
        @staticmethod
        def write(_fd: int, data: bytes) -> int:
            written.extend(data[:7])
            return min(7, len(data))

    monkeypatch.setattr(main_module, "os", ShortOs)

    EventWriter(1).guest("paused")

    assert json.loads(written)["state"] == "paused"
    assert written.endswith(b"\n")


@pytest.mark.parametrize("at", ["call", "progress"])
def test_hold_stands_still_until_released(at: str) -> None:
    """Fault tests strike at a named event: the engine waits there for its cancel."""
    reader, writer = os.pipe()
    events, release = EventWriter(writer), CancelToken()
    events.hold(at, release)
    release.cancel("by a test")

    events.step(Step.PREFLIGHT)
    events.step(Step.CALL)
    events.progress(1, 2)

    os.close(writer)
    assert len(read_all(reader)) == 3
    os.close(reader)
