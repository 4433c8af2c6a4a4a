"""Put right what a dead engine left: sweep its staging, publish its only copy, resume its guest.

libvirt has let the guest go on by itself when the engine died (docs/decisions/0001); what
is left is to tell an image that nobody needs from one that is all there is of a guest.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.directio.probe import PROBE_PREFIX
from engine.errors import DomainBusyError, EngineError, ImageFormatError, ImageIncompleteError
from engine.hypervisor.port import Domain, Hypervisor
from engine.image.header import HEADER_SIZE, parse_header
from engine.operation import PUT_BACK_SECONDS
from engine.store.places import FILE_STAGING_PREFIX, REPLACEMENT_PREFIX, STAGING_NAME, Place
from engine.store.record import PREPARED, RECORD_NAME, Record, parse_record, read_boot_id
from engine.store.staging import Staging, lock_directory
from engine.store.workspace import JOBS_NAME, STAGING_LINK, lock_domain, remove_workspace

_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One thing that was put right, or that could not be."""

    #: "discarded", "published", "resumed" or "undecided".
    kind: str
    job_id: str
    domain: str
    #: The image that was published, or the staging directory.
    path: str
    #: A sentence for people.
    detail: str


def recover(
    runtime_dir: Path,
    directories: Sequence[Path],
    open_hypervisor: Callable[[], Hypervisor],
    *,
    job_id: str | None = None,
) -> list[Recovery]:
    """Put right what engines left that are dead now; engines that live are not disturbed.

    Args:
        runtime_dir: the engines' runtime directory.
        directories: stores, and directories that `save --to` wrote into.
        open_hypervisor: called only when a guest has to be looked at.
        job_id: put right only what this job left; None = all.

    Returns: what was done. An "undecided" stays as it is, for the next time.
    """
    # The runtime directories first: a path that libvirt may still open must lead nowhere.
    targets = _remove_workspaces(runtime_dir, job_id)
    _remove_probes(directories)
    candidates = {*targets, *_stagings(directories, job_id)}
    done: list[Recovery] = []
    for staging in sorted(candidates):
        lock = _lock_dead(staging)
        if lock is None:
            continue
        try:
            done += _recover_staging(staging, runtime_dir, open_hypervisor)
        finally:
            os.close(lock)
    return done


def list_leftovers(runtime_dir: Path, directories: Sequence[Path]) -> list[Path]:
    """Return the runtime and staging directories of dead engines; nothing is changed."""
    found = []
    for directory in (*_workspaces(runtime_dir, None), *_stagings(directories, None)):
        lock = _lock_dead(directory)
        if lock is not None:
            os.close(lock)
            found.append(directory)
    return sorted(found)


def _lock_dead(directory: Path) -> int | None:
    """Take a directory that no living engine holds; None where one does, or where it has gone."""
    try:
        return lock_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _workspaces(runtime_dir: Path, job_id: str | None) -> list[Path]:
    """Return the runtime directories of all jobs, or of one."""
    return sorted(path for path in (runtime_dir / JOBS_NAME).glob(job_id or "*") if path.is_dir())


def _remove_workspaces(runtime_dir: Path, job_id: str | None) -> list[Path]:
    """Remove the runtime directories of dead engines; return where those were writing."""
    targets = []
    for directory in _workspaces(runtime_dir, job_id):
        lock = _lock_dead(directory)
        if lock is None:
            continue
        link = directory / STAGING_LINK
        if link.is_symlink():
            targets.append(link.readlink())
        remove_workspace(directory)
        os.close(lock)
    return targets


def _remove_probes(directories: Sequence[Path]) -> None:
    """Remove trial files; one that is in use has no need of its name any more."""
    for directory in directories:
        for entry in _list_entries(directory):
            if entry.name.startswith(PROBE_PREFIX) and entry.is_file(follow_symlinks=False):
                Path(entry).unlink(missing_ok=True)


def _stagings(directories: Sequence[Path], job_id: str | None) -> Iterator[Path]:
    """Yield every staging directory of stores and of directories that files were saved into."""
    for directory in directories:
        points = _list_directories(directory / STAGING_NAME)
        files = [path for path in _list_directories(directory) if path.name.startswith(FILE_STAGING_PREFIX)]
        yield from (path for path in (*points, *files) if job_id in {None, _job_of(path)})


def _list_directories(directory: Path) -> list[Path]:
    """Return the directories in one."""
    return [Path(entry) for entry in _list_entries(directory) if entry.is_dir(follow_symlinks=False)]


def _list_entries(directory: Path) -> list[os.DirEntry[str]]:
    """Return what is in a directory; nothing where this user's engines cannot have made anything."""
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _recover_staging(
    staging: Path, runtime_dir: Path, open_hypervisor: Callable[[], Hypervisor]
) -> list[Recovery]:
    try:
        record = parse_record((staging / RECORD_NAME).read_text(), path=str(staging / RECORD_NAME))
    except (OSError, UnicodeDecodeError, ImageFormatError) as error:
        return [_recover_unrecorded(staging, error)]
    try:
        with lock_domain(runtime_dir, record.domain_uuid, record.domain):
            return _settle(staging, record, open_hypervisor)
    except DomainBusyError:
        return [_told("undecided", record, staging, "another operation runs on the domain")]


def _recover_unrecorded(staging: Path, error: Exception) -> Recovery:
    """Remove a staging directory that was never begun; leave one alone that cannot be understood.

    The record is the first thing written, by rename: without it nothing else was.
    """
    if _job_of(staging).startswith(REPLACEMENT_PREFIX):
        shutil.rmtree(staging, ignore_errors=True)
        return _told("discarded", None, staging, "a replacement that was not finished; the image is whole")
    known = {RECORD_NAME, f"{RECORD_NAME}.new"}
    if isinstance(error, FileNotFoundError) and {path.name for path in staging.iterdir()} <= known:
        shutil.rmtree(staging, ignore_errors=True)
        return _told("discarded", None, staging, "a staging directory that was never begun")
    return _told("undecided", None, staging, f"its record cannot be read, and it is not empty: {error}")


def _settle(staging: Path, record: Record, open_hypervisor: Callable[[], Hypervisor]) -> list[Recovery]:
    """Decide by what became of the guest whether its image is needed."""
    try:
        hypervisor = open_hypervisor()
        guest = _wait_idle_guest(hypervisor, record)
    except EngineError as error:
        return [_told("undecided", record, staging, f"the guest cannot be looked at: {error}")]
    if guest is not None and guest.running_job:
        # libvirt may be about to let the guest go, or about to put it back: nobody can tell yet.
        return [_told("undecided", record, staging, f"libvirt has a {guest.running_job} on the guest")]
    place = Place(final=Path(record.final), staging=staging, is_point=record.is_point)
    work = Staging(place, record)
    # libvirt lets the guest of a native save go before we could record that the image is whole.
    is_whole = record.state == PREPARED or (record.data_path == "native" and _is_complete(work.image))
    may_be_only_copy = record.op in {"save", "checkpoint"} and is_whole and guest is None
    if may_be_only_copy and work.image.exists():
        try:
            path = work.publish()
        except EngineError as error:
            return [_told("undecided", record, staging, f"the image could not be published: {error}")]
        return [_told("published", record, path, "the guest is gone; its image is whole")]
    done = []
    if guest is not None and record.was_running and guest.state == "paused" and not guest.is_paused_by_user:
        try:
            hypervisor.resume(guest.uuid)
        except EngineError as error:
            # libvirt may be just about to let it go on; the staging directory says what to look at then.
            return [_told("undecided", record, staging, f"the guest could not be resumed: {error}")]
        done.append(_told("resumed", record, staging, "the guest ran before the operation"))
    shutil.rmtree(staging, ignore_errors=True)
    return [*done, _told("discarded", record, staging, "the guest had not been let go")]


def _wait_idle_guest(hypervisor: Hypervisor, record: Record) -> Domain | None:
    """Return the very guest of the record once no job runs on it, or after some seconds; None: it is gone.

    What the engine had begun, libvirt ends by itself a moment after the engine's death.
    """
    deadline = time.monotonic() + PUT_BACK_SECONDS
    while True:
        guest = _same_guest(hypervisor, record)
        if guest is None or not guest.running_job or time.monotonic() > deadline:
            return guest
        time.sleep(_POLL_SECONDS)


def _same_guest(hypervisor: Hypervisor, record: Record) -> Domain | None:
    """Return the domain if the very guest of the record is still there."""
    if record.boot_id != read_boot_id():
        return None
    for domain in hypervisor.list_domains():
        if domain.uuid == record.domain_uuid and domain.run_id == record.run_id:
            return domain
    return None


def _is_complete(image: Path) -> bool:
    """Tell whether libvirt marked the image complete."""
    try:
        with image.open("rb") as file:
            parse_header(file.read(HEADER_SIZE), path=str(image))
    except (OSError, ImageFormatError, ImageIncompleteError):
        return False
    return True


def _told(kind: str, record: Record | None, path: Path, detail: str) -> Recovery:
    return Recovery(
        kind=kind,
        job_id=record.job_id if record else _job_of(path),
        domain=record.domain if record else "",
        path=str(path),
        detail=detail,
    )


def _job_of(staging: Path) -> str:
    """Return whose staging directory it is, by its name."""
    return staging.name.removeprefix(FILE_STAGING_PREFIX)
