"""Keep a job's pipes and the lock on its domain below the runtime directory."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from engine.directio.target import storage_error
from engine.errors import DomainBusyError
from engine.store.staging import lock_directory

JOBS_NAME: Final = "jobs"
#: In a job's runtime directory: where it writes.
STAGING_LINK: Final = "staging"


@contextmanager
def open_workspace(runtime_dir: Path, job_id: str, staging: Path | None = None) -> Iterator[Path]:
    """Give a job a 0700 directory of its own, locked while it lives, gone afterwards.

    Args:
        runtime_dir: the engine's runtime directory; made when missing.
        job_id: names the directory.
        staging: where the job will write; a link to it lets recovery find it after a crash.

    Raises:
        StorageError: it cannot be made.
    """
    directory = runtime_dir / JOBS_NAME / job_id
    try:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise storage_error(str(directory), error, "making the job's runtime directory") from error
    lock = None
    try:
        try:
            lock = lock_directory(directory)
            if staging is not None:
                (directory / STAGING_LINK).symlink_to(staging)
        except OSError as error:
            raise storage_error(str(directory), error, "writing into the job's runtime directory") from error
        yield directory
    finally:
        remove_workspace(directory)
        if lock is not None:
            os.close(lock)


def remove_workspace(directory: Path) -> None:
    """Remove a job's runtime directory in one instant, then what was in it.

    A path inside that libvirt may still be about to open must not go missing by itself:
    libvirt would make a plain file of it and save the guest into that.
    """
    gone = directory.with_name(f".gone-{directory.name}")
    # Whoever was killed in here before left it.
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def lock_domain(runtime_dir: Path, domain_uuid: str, domain: str) -> Iterator[None]:
    """Hold the domain for this process; the lock goes with the process, however it goes.

    Raises:
        DomainBusyError: another engine holds it.
        StorageError: the lock's file cannot be made.
    """
    path = runtime_dir / "locks" / f"{domain_uuid}.lock"
    try:
        # Each by itself: mkdir gives its mode to the last directory only.
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(str(path), error, "making the domain's lock") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DomainBusyError(
                domain, "another fleetsave operation runs on it", "none", "wait for it, or cancel it"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
