"""Keep a job's pipes and the lock on its domain below the runtime directory."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.directio.target import storage_error
from engine.errors import DomainBusyError


@contextmanager
def open_workspace(runtime_dir: Path, job_id: str) -> Iterator[Path]:
    """Give a job a 0700 directory of its own, gone afterwards.

    Raises:
        StorageError: it cannot be made.
    """
    directory = runtime_dir / "jobs" / job_id
    try:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise storage_error(str(directory), error, "making the job's runtime directory") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def lock_domain(runtime_dir: Path, domain_uuid: str, domain: str) -> Iterator[None]:
    """Hold the domain for this process; the lock goes with the process, however it goes.

    Raises:
        DomainBusyError: another engine holds it.
    """
    directory = runtime_dir / "locks"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / f"{domain_uuid}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
