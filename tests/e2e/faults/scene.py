"""Set up one cell of the matrix: an operation that stands still at a step, or whose disk fails from there."""

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from blake3 import blake3

from cli.sandbox import Guest, Host
from tests.e2e.conftest import EngineRun

ROOT: Final = Path(__file__).resolve().parents[3]
#: Ends when the engine ends; dies together with it when its process group is killed.
SUPERVISOR: Final = ("sh", "-c", '"$@"; exit $?', "supervisor")
#: The instant after the first bytes have passed: no step, but worth a row of its own.
MID_STREAM: Final = "progress"

_RECOVER: Final = """
import dataclasses, json, sys
from engine import recover
found = recover(sys.argv[1], runtime_dir=sys.argv[2], directories=sys.argv[3:])
print(json.dumps([dataclasses.asdict(one) for one in found]))
"""


def build_shim(folder: Path) -> Path:
    """Compile what lets system calls fail; return the library, readable by every user."""
    library = folder / "disk_faults.so"
    source = ROOT / "tests" / "data" / "disk_faults.c"
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"],
        check=True,
    )
    library.chmod(0o755)
    return library


def recover(host: Host, *directories: Path) -> list[dict[str, Any]]:
    """Run the engine's recovery as the host's user, as whoever comes after a crash does."""
    argv: list[str | Path] = [
        *host.python,
        "-c",
        _RECOVER,
        host.uri,
        host.runtime_dir / "fleetsave",
        *directories,
    ]
    found: list[dict[str, Any]] = json.loads(host.run(argv).stdout)
    return found


@dataclass(kw_only=True)
class Scene:
    """One guest, an older image of it that must survive everything, and a folder for new ones."""

    guest: Guest
    #: Where new images go.
    folder: Path
    #: An image taken when everything was well; in a folder of its own.
    good: Path
    #: What lets the disk fail, and pauses the engine; only for faults that need it.
    shim: Path | None = None
    op: str = "save"
    step: str = ""
    #: More fields of the request.
    request: dict[str, Any] = field(default_factory=dict)
    #: Number that the guest had printed when the fault struck, and when that was (time.monotonic()).
    counter: int = 0
    struck_at: float = 0.0
    #: Engines that were started and may still be there.
    engines: list[EngineRun] = field(default_factory=list)

    @property
    def host(self) -> Host:
        """The host of the guest."""
        return self.guest.host

    @property
    def image(self) -> Path:
        """Final name of the image that a save or checkpoint is to make."""
        return self.folder / "new.save"

    def start(
        self, *, argv: tuple[str, ...] = (), env: dict[str, str] | None = None, **request: Any
    ) -> EngineRun:
        """Start the operation.

        Args:
            argv: words before the engine's own command line.
            env: more environment variables.
            request: more fields of the request.
        """
        host = self.host
        target = {"path": str(self.good)} if self.op == "restore" else {"to": str(self.image)}
        document = {
            "op": self.op,
            "job_id": uuid4().hex,
            "host": host.name,
            "uri": host.uri,
            "runtime_dir": str(host.runtime_dir / "fleetsave"),
            "domain": self.guest.name,
            **target,
            **self.request,
            **request,
        }
        process = host.popen(
            [*argv, *host.python, "-m", "engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(document))
        process.stdin.close()
        self.engines.append(EngineRun(host=host, process=process))
        return self.engines[-1]

    def run(self, op: str, **request: Any) -> EngineRun:
        """Run one operation without a fault, to its end; fail if it fails."""
        self.op, self.request = op, {}
        engine = self.start(**request)
        engine.wait()
        assert engine.result
        return engine

    def set_up(self, op: str, step: str, *, state: str = "running", **request: Any) -> None:
        """Get ready for an operation on a running or paused guest, or for the restore of one that is off.

        Args:
            op: the operation.
            step: where the fault is to strike.
            state: what the guest is to be, where it is not a restore.
            request: more fields of the request.
        """
        self.end_engines()
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if op == "restore":
            self.turn_off()
        elif (found := self.guest.state()) == "shut off":
            self.restore(self.good)
        elif found == "paused":
            self.host.virsh("resume", self.guest.name)
        if state == "paused":
            self.host.virsh("suspend", self.guest.name)
        self.op, self.step, self.request = op, step, request

    def turn_off(self) -> None:
        """Destroy the guest, if it is there."""
        if self.guest.state() != "shut off":
            self.host.virsh("destroy", self.guest.name)

    def restore(self, image: Path) -> None:
        """Restore the guest from an image; see that it counts."""
        self.turn_off()
        self.run("restore", path=str(image))
        self.guest.wait_counting()

    def end_engines(self) -> None:
        """Kill what is left of engines that were started."""
        while self.engines:
            engine = self.engines.pop()
            if engine.process.poll() is None:
                os.killpg(engine.process.pid, signal.SIGKILL)
                engine.wait()

    def start_held(self, *argv: str) -> EngineRun:
        """Start the operation; return when it stands still at the step, for good."""
        engine = self.start(argv=argv, hold_at=self.step)
        engine.wait_for(self.step)
        return engine

    def start_faulty(self, effect: str, *, skip: int = 0) -> EngineRun:
        """Start the operation with a disk that fails from the step on."""
        return self.start(env=self._preload(FAULT_EFFECT=effect, FAULT_SKIP=str(skip)))

    @contextmanager
    def pause_engine(self, **fields: Any) -> Iterator[EngineRun]:
        """Give an operation that stands still at the step as long as the block, and then goes on."""
        go = self.folder.parent / f"go-{uuid4().hex[:8]}"
        engine = self.start(env=self._preload(FAULT_GO=str(go)), **fields)
        try:
            engine.wait_for(self.step)
            yield engine
        finally:
            # It stays: the engine may look for it later. The sandbox takes it away.
            go.touch()

    def strike(self) -> None:
        """Note that the fault strikes now."""
        self.counter, self.struck_at = self.guest.counter(), time.monotonic()

    def _preload(self, **fault: str) -> dict[str, str]:
        is_step = self.step != MID_STREAM
        event = f'"step": "{self.step}"' if is_step else f'"event": "{self.step}"'
        directory = self.good.parent if self.op == "restore" else self.folder
        return {
            "LD_PRELOAD": str(self.shim),
            "FAULT_EVENT": event,
            "FAULT_DIRECTORY": str(directory),
            **fault,
        }

    def visible(self) -> list[str]:
        """Return the names in the folder that are not hidden."""
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))

    def leftovers(self) -> list[str]:
        """Return what operations left behind in staging and in the runtime directory."""
        hidden = [path for path in self.folder.iterdir() if path.name.startswith(".")]
        jobs = self.host.runtime_dir / "fleetsave" / "jobs"
        return sorted(str(path) for path in [*hidden, *(jobs.iterdir() if jobs.is_dir() else ())])

    def good_checksum(self) -> str:
        """Return the checksum of the older image and its manifest."""
        manifest = self.good.with_name(f"{self.good.name}.manifest.json")
        return blake3(self.good.read_bytes() + manifest.read_bytes()).hexdigest()

    def guest_pid(self) -> int:
        """Return the id of the guest's QEMU process."""
        return int((self.host.runtime_dir / "libvirt/qemu/run" / f"{self.guest.name}.pid").read_text())

    def daemon_pid(self) -> int:
        """Return the id of the host's libvirtd."""
        return int((self.host.runtime_dir / "libvirt/libvirtd.pid").read_text())


def kill_and_wait(pid: int) -> None:
    """SIGKILL one process of the sandbox; return when it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        # Readable as soon as the process has ended, collected by its parent or not.
        ended, _, _ = select.select([descriptor], [], [], 10)
        assert ended, f"process {pid} did not end within 10 s"
    finally:
        os.close(descriptor)
