"""Run the engine as the worker does: a process of the host's user, request in, events out."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cli.sandbox import Guest, GuestSpec, Host, Sandbox


@dataclass(kw_only=True)
class EngineRun:
    """One engine process and the events it wrote so far."""

    host: Host
    process: "subprocess.Popen[str]"
    events: list[dict[str, Any]] = field(default_factory=list)

    def wait_for(self, what: str) -> None:
        """Read events until a step, or an event of another kind, is reported."""
        while True:
            event = self._next()
            assert event is not None, f"ended before {what}: {self.events[-1:]}"
            if what in {event["event"], event.get("step")}:
                return

    def wait(self) -> int:
        """Read the rest; return the exit status."""
        while self._next() is not None:
            continue
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL the engine itself, not what started it."""
        self.process.kill()
        self.wait()

    @property
    def steps(self) -> list[str]:
        """The steps reported so far."""
        return [event["step"] for event in self.events if event["event"] == "step"]

    @property
    def result(self) -> dict[str, Any]:
        """The outcome."""
        assert self.events, "no events"
        assert self.events[-1]["event"] == "result", self.events[-1]
        return dict(self.events[-1]["result"])

    @property
    def error(self) -> dict[str, Any]:
        """The error."""
        assert self.events[-1]["event"] == "error", self.events[-1]
        return dict(self.events[-1]["error"])

    def _next(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return None
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event


@pytest.fixture(scope="module")
def steady_guest(sandbox: Sandbox) -> Iterator[Guest]:
    """Give one counting guest on alpha to a whole module whose tests all leave it running."""
    guest = sandbox.hosts["alpha"].define(GuestSpec(name=f"steady-{uuid4().hex[:8]}"))
    guest.start()
    guest.wait_counting()
    yield guest
    guest.remove()


@pytest.fixture
def folder(sandbox: Sandbox) -> Path:
    """Give alpha's user an empty directory on a disk that takes O_DIRECT."""
    host = sandbox.hosts["alpha"]
    path = host.store.parent / f"folder-{uuid4().hex[:8]}"
    path.mkdir(mode=0o700)
    os.chown(path, host.uid, host.uid)
    return path


@pytest.fixture
def start_engine() -> Callable[..., EngineRun]:
    """Give a function that starts an engine on a host; keywords are the request's."""

    def start(host: Host, **request: Any) -> EngineRun:
        document = {
            "job_id": uuid4().hex,
            "host": host.name,
            "uri": host.uri,
            "runtime_dir": str(host.runtime_dir / "fleetsave"),
            "managed_save_dir": f"{host.environment['XDG_CONFIG_HOME']}/libvirt/qemu/save",
            **request,
        }
        process = host.popen(
            [*host.python, "-m", "engine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(document))
        process.stdin.close()
        return EngineRun(host=host, process=process)

    return start


@pytest.fixture
def run_engine(start_engine: Callable[..., EngineRun]) -> Callable[..., EngineRun]:
    """Give a function that runs an engine to its end."""

    def run(host: Host, **request: Any) -> EngineRun:
        engine = start_engine(host, **request)
        engine.wait()
        return engine

    return run
