"""Keep a simulated host's domains in a directory that any number of processes share.

In the directory of a host:

- host.json: what the host was made with; there once it is whole.
- lock: held for each change, never during the I/O of an operation.
- domains/UUID: state of a domain (JSON), replaced by rename.
- names/NAME: link to the UUID.
- events/UUID: what the guest's CPUs did: time.monotonic() and a word a line.
- save/NAME.save: managed save images.
- faults: faults for all connections, one a line; may come and go.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote
from uuid import UUID

from engine.errors import NoDomainError
from engine.hypervisor.sim.codes import OPERATION_FAILED, OPERATION_TIMEOUT, failure
from engine.hypervisor.sim.domain import PAUSED, RUNNING, SimDomain, parse_domain
from engine.hypervisor.sim.owner import read_boot_id

#: Seconds between two looks at something that another process is to change.
POLL_SECONDS: Final = 0.005
_NEXT_RUN: Final = "next-run"
#: No domain has it.
_NO_UUID: Final = str(UUID(int=0))
_EVENTS: Final = {RUNNING: "resumed", PAUSED: "paused"}


class SimHost:
    """The state of one host; safe from several processes and threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.save_directory = directory / "save"
        self._domains = directory / "domains"
        self._names = directory / "names"
        self._events = directory / "events"

    def make(self, populate: Callable[[], Iterator[SimDomain]], description: str) -> None:
        """Make the host with these domains unless it is there already."""
        marker = self.directory / "host.json"
        if marker.exists():
            return
        for directory in (self._domains, self._names, self._events, self.save_directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.locked():
            if marker.exists():
                return
            last = 0
            for domain in populate():
                self._write(domain)
                last = max(last, domain.run_id)
            self._replace(self.directory / _NEXT_RUN, str(last + 1))
            self._replace(marker, description)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes and threads from changing anything; a killed one lets go."""
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def find(self, name_or_uuid: str) -> SimDomain:
        """Return a domain by name or UUID.

        Raises:
            NoDomainError: there is none.
        """
        domain = self.read(self._uuid_of(name_or_uuid))
        if domain is None:
            raise NoDomainError(name_or_uuid, "no such domain", f"a domain of {self.directory}")
        return domain

    def _uuid_of(self, name_or_uuid: str) -> str:
        """Return the UUID of a name, else the text as a UUID is written."""
        with suppress(OSError):  # no such name, or none that a file could have
            return str((self._names / quote(name_or_uuid, safe="")).readlink())
        try:
            return str(UUID(name_or_uuid))
        except ValueError:
            return _NO_UUID

    def read(self, uuid: str) -> SimDomain | None:
        """Return the domain of this UUID, put right where its job's process is gone; None for none."""
        domain = self._read(uuid)
        if domain is not None and _repaired(domain) is not domain:
            with self.locked():
                domain = self._read(uuid)
                if domain is not None:
                    return self._store(domain, _repaired(domain))
        return domain

    def domains(self) -> list[SimDomain]:
        """Return all domains, sorted by name."""
        found = (self.read(uuid) for uuid in self._uuids())
        return sorted((domain for domain in found if domain is not None), key=lambda domain: domain.name)

    def wait_unlocked(self, domain: SimDomain, limit_seconds: float) -> SimDomain | None:
        """Return the domain once no job holds its lock; None when it has gone.

        Raises:
            DomainBusyError: the limit is reached; libvirt would wait for ever.
        """
        deadline = time.monotonic() + limit_seconds
        now: SimDomain | None = domain
        while now is not None and now.job is not None and now.job.holds_lock:
            if time.monotonic() > deadline:
                raise failure(OPERATION_TIMEOUT, domain.name, f"its lock is held by a {now.job.kind}")
            time.sleep(POLL_SECONDS)
            now = self.read(domain.uuid)
        return now

    def change(
        self, uuid: str, how: Callable[[SimDomain], SimDomain], *, events: Sequence[str] | None = None
    ) -> SimDomain:
        """Change a domain at one go; return it as it is now.

        A transient domain goes with its guest.

        Args:
            uuid: the domain.
            how: returns the domain as it is to be.
            events: what its guest's CPUs did; None where the change says it.

        Raises:
            NoDomainError: there is none; `how` may raise anything to change nothing.
        """
        with self.locked():
            domain = self._read(uuid)
            if domain is None:
                raise NoDomainError(uuid, "no such domain", f"a domain of {self.directory}")
            return self._store(domain, how(_repaired(domain)), events)

    def change_all(self, how: Callable[[SimDomain], SimDomain]) -> None:
        """Change every domain at one go."""
        with self.locked():
            for uuid in self._uuids():
                domain = self._read(uuid)
                if domain is not None:
                    self._store(domain, how(domain))

    def put(self, new: SimDomain, how: Callable[[SimDomain], SimDomain]) -> SimDomain:
        """Change the domain of new's name and UUID, or add `new` and change that.

        Raises:
            HypervisorError: name or UUID belong to another domain.
        """
        with self.locked():
            found = self._read(new.uuid)
            if found is not None and found.name != new.name:
                message = f"domain '{found.name}' is already defined with uuid {new.uuid}"
                raise failure(OPERATION_FAILED, new.name, message)
            link = self._names / quote(new.name, safe="")
            if found is None and link.is_symlink():
                message = f"domain '{new.name}' already exists with uuid {link.readlink()}"
                raise failure(OPERATION_FAILED, new.name, message)
            return self._store(found or new, how(_repaired(found) if found else new))

    def new_run_id(self) -> int:
        """Return the number of the next run; only while `locked`."""
        path = self.directory / _NEXT_RUN
        number = int(path.read_text())
        self._replace(path, str(number + 1))
        return number

    def events(self, uuid: str) -> list[tuple[float, str]]:
        """Return all that the guest's CPUs ever did, oldest first."""
        try:
            lines = (self._events / uuid).read_text().splitlines()
        except FileNotFoundError:
            return []
        pairs = (line.partition(" ") for line in lines)
        return [(float(at), what) for at, _, what in pairs]

    def managed_image(self, name: str) -> Path:
        """Return where the domain's managed save image is, if it has one."""
        return self.save_directory / f"{name}.save"

    def _uuids(self) -> list[str]:
        """Return the UUIDs of all domains; names with a dot are files that are being written."""
        with os.scandir(self._domains) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".")]

    def _read(self, uuid: str) -> SimDomain | None:
        path = self._domains / uuid
        try:
            return parse_domain(path.read_text(), path=str(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _store(self, before: SimDomain, after: SimDomain, events: Sequence[str] | None = None) -> SimDomain:
        """Write what changed; only while `locked`."""
        if after is before:
            return after
        words = _events_between(before, after) if events is None else events
        if words:
            now = time.monotonic()
            fd = os.open(self._events / after.uuid, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(fd, "w") as file:
                file.writelines(f"{now} {word}\n" for word in words)
        if after.is_active or after.is_persistent:
            self._write(after)
        else:
            (self._names / quote(after.name, safe="")).unlink(missing_ok=True)
            (self._domains / after.uuid).unlink(missing_ok=True)
        return after

    def _write(self, domain: SimDomain) -> None:
        self._replace(self._domains / domain.uuid, domain.to_json())
        link = self._names / quote(domain.name, safe="")
        if not link.is_symlink():
            link.symlink_to(domain.uuid)

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.rename(path)


def _repaired(domain: SimDomain) -> SimDomain:
    """Return the domain as libvirt would have put it right, the very same where nothing is wrong."""
    if domain.is_active and domain.boot_id != read_boot_id():
        return domain.ended()
    if domain.autodestroy is not None and not domain.autodestroy.is_alive():
        return domain.ended()
    if domain.job is not None and not domain.job.owner.is_alive():
        return domain.undone(time.monotonic())
    return domain


def _events_between(before: SimDomain, after: SimDomain) -> list[str]:
    """Return what libvirt tells of the change, in its order; of a guest on its way it tells nothing."""
    if before.is_arriving or after.is_arriving:
        return []
    if not before.is_active and after.is_active:
        return ["resumed", "started"] if after.state == RUNNING else ["started", "paused"]
    if before.is_active and not after.is_active:
        return ["stopped"]
    return [_EVENTS[after.state]] if after.is_active and after.state != before.state else []
