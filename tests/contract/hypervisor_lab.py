"""Two hypervisors to compare: a simulated host, and a libvirt session host of the sandbox."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from cli.sandbox import Guest, GuestSpec, Host
from engine.errors import NoDomainError
from engine.hypervisor.port import Domain
from engine.hypervisor.sim.hypervisor import SimHypervisor
from engine.hypervisor.sim.machine import make_xml
from engine.units import MiB
from tests.contract.hypervisor_bench import Bench, RemoteBench

ROOT = Path(__file__).parents[2]


class Lab(Protocol):
    """One hypervisor, guests on it, and somebody who does what people do beside the engine."""

    #: A Bench, or a RemoteBench with the same methods.
    bench: Any
    is_simulated: bool
    folder: Path
    #: Where the hypervisor keeps managed save images.
    managed: Path
    uri: str

    def make_guest(self, *, transient: bool = False) -> Domain:
        """Add a domain whose guest runs and counts."""

    def steady_guest(self) -> Domain:
        """Return the guest that tests share, in whatever state the last one left it."""

    def remove(self, guest: Domain) -> None:
        """Take guest and domain away."""

    def suspend(self, guest: Domain) -> None:
        """Pause it as a person does."""

    def counter(self, guest: Domain) -> int:
        """Return what the guest has counted to."""

    def wait_counting(self, guest: Domain) -> int:
        """Wait until it has counted on; return what to."""

    def kill_daemon(self) -> None:
        """End the daemon as a crash does; the next call finds another one."""

    def start_engine(self, **request: Any) -> subprocess.Popen[str]:
        """Start an engine process."""


class SimLab:
    """A simulated host."""

    is_simulated = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sim://{folder}/hosts?host=alpha&busy=300ms"
        self.bench: Any = Bench(self.uri, str(folder))
        self.person = SimHypervisor(self.uri)
        self.managed = folder / "hosts/alpha/save"
        self._steady: Domain | None = None

    def make_guest(self, *, transient: bool = False) -> Domain:
        """Add a domain whose guest runs and counts."""
        name = f"guest-{uuid4().hex[:8]}"
        made = self.person.define(make_xml(name, str(uuid4()), 3 * MiB), transient=transient)
        if not transient:
            self.person.start(made.uuid, 0)
        return self.person.find_domain(name)

    def steady_guest(self) -> Domain:
        """Return the guest that tests share, in whatever state the last one left it."""
        if self._steady is None:
            self._steady = self.make_guest()
        return self._steady

    def remove(self, guest: Domain) -> None:
        """Take guest and domain away."""
        (self.managed / f"{guest.name}.save").unlink(missing_ok=True)
        try:
            if self.person.find_domain(guest.uuid).is_active:
                self.person.destroy(guest.uuid)
            self.person.undefine(guest.uuid)
        except NoDomainError:
            return

    def suspend(self, guest: Domain) -> None:
        """Pause it as a person does."""
        self.person.suspend(guest.uuid)

    def counter(self, guest: Domain) -> int:
        """Return what the guest has counted to."""
        return self.person.counter(guest.uuid)

    def wait_counting(self, guest: Domain) -> int:
        """Wait until it has counted on; return what to."""
        before = self.counter(guest)
        deadline = time.monotonic() + 5
        while (now := self.counter(guest)) <= before:
            assert time.monotonic() < deadline, "the guest does not count"
            time.sleep(0.002)
        return now

    def kill_daemon(self) -> None:
        """End the daemon as a crash does; the next call finds another one."""
        self.person.crash()

    def start_engine(self, **request: Any) -> subprocess.Popen[str]:
        """Start an engine process."""
        argv = [sys.executable, "-m", "engine"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        return _ask(self, process, request)

    def close(self) -> None:
        """End the connection."""
        self.person.close()


class LibvirtLab:
    """A libvirt session daemon of an unprivileged user."""

    is_simulated = False

    def __init__(self, host: Host) -> None:
        self.host = host
        self.uri = host.uri
        self.folder = host.store.parent / "contract"
        host.run(["mkdir", self.folder])
        config = Path(host.environment["XDG_CONFIG_HOME"])
        self.managed = config / "libvirt/qemu/save"
        program = host.home / "hypervisor_bench.py"
        shutil.copyfile(ROOT / "tests/contract/hypervisor_bench.py", program)
        program.chmod(0o644)
        argv: list[str | Path] = [*host.python, program, host.uri, self.folder]
        self.bench: Any = RemoteBench(
            host.popen(argv, text=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # type: ignore[arg-type]
        )
        self._guests: dict[str, Guest] = {}
        self._steady: Domain | None = None

    def make_guest(self, *, transient: bool = False) -> Domain:
        """Add a domain whose guest runs and counts."""
        spec = GuestSpec(name=f"guest-{uuid4().hex[:8]}", memory_mib=80, fill_mib=1, transient=transient)
        guest = self.host.define(spec)
        guest.start()
        guest.wait_counting()
        self._guests[str(spec.uuid)] = guest
        found: Domain = self.bench.hypervisor("find_domain", spec.name)
        return found

    def steady_guest(self) -> Domain:
        """Return the guest that tests share, in whatever state the last one left it."""
        if self._steady is None:
            self._steady = self.make_guest()
        return self._steady

    def remove(self, guest: Domain) -> None:
        """Take guest and domain away."""
        self._guests[guest.uuid].remove()

    def suspend(self, guest: Domain) -> None:
        """Pause it as a person does."""
        self.host.virsh("suspend", guest.name)

    def counter(self, guest: Domain) -> int:
        """Return what the guest has counted to."""
        return self._guests[guest.uuid].counter()

    def wait_counting(self, guest: Domain) -> int:
        """Wait until it has counted on; return what to."""
        return self._guests[guest.uuid].wait_counting()

    def kill_daemon(self) -> None:
        """End the daemon as a crash does; the next call finds another one."""
        pid = int((self.host.runtime_dir / "libvirt/libvirtd.pid").read_text())
        os.kill(pid, signal.SIGKILL)

    def start_engine(self, **request: Any) -> subprocess.Popen[str]:
        """Start an engine process."""
        process = self.host.popen(
            [*self.host.python, "-m", "engine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return _ask(self, process, request)

    def close(self) -> None:
        """End the bench."""
        self.bench.close()


def _ask(lab: SimLab | LibvirtLab, process: subprocess.Popen[str], request: Any) -> subprocess.Popen[str]:
    """Give an engine process its request."""
    document = {
        "job_id": uuid4().hex,
        "host": "bench",
        "uri": lab.uri,
        "runtime_dir": str(lab.folder / "run"),
        **request,
    }
    assert process.stdin is not None
    process.stdin.write(json.dumps(document))
    process.stdin.close()
    return process


def now(lab: Lab, guest: Domain) -> Domain:
    """Return the domain as it is now."""
    found: Domain = lab.bench.hypervisor("find_domain", guest.uuid)
    return found


def new_file(lab: Lab) -> str:
    """Return a path that nothing is at, in a directory of the host's user."""
    return str(lab.bench.make_folder() / "image")


def save_to_file(lab: Lab, guest: Domain) -> str:
    """Save the guest into a new file through the stream."""
    image = new_file(lab)
    lab.bench.begin_save(guest.uuid)
    lab.bench.drain()
    lab.bench.commit(image)
    return image


def assert_as_before(lab: Lab, guest: Domain) -> None:
    """See that it is the same guest in the same state, with nothing running on it."""
    found = now(lab, guest)
    seen = found.run_id, found.state, found.is_paused_by_user, found.running_job
    assert seen == (guest.run_id, guest.state, guest.is_paused_by_user, "")
