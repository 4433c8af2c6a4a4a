"""Look at everything on this host that operations depend on; nothing is changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engine.directio.probe import free_bytes, probe_direct_io
from engine.errors import EngineError, NoSpaceError, StorageError, TryAgainError
from engine.findings import Finding, Survey
from engine.flags import BypassPolicy
from engine.hypervisor.connect import connect
from engine.hypervisor.port import Domain
from engine.preflight import estimate_image
from engine.recover import list_leftovers
from engine.store.places import check_directory
from engine.units import format_size

#: Permission bits of anybody but the owner.
_OTHERS: Final = 0o077


def survey_host(
    uri: str, *, runtime_dir: Path, store: Path | None, directories: Sequence[Path] = ()
) -> list[Finding]:
    """Return what was found, good and bad, in the order it was looked at.

    Args:
        uri: libvirt connection URI.
        runtime_dir: the engines' runtime directory.
        store: directory of restore points; None = there is none.
        directories: others that images were saved into, searched for leftovers.
    """
    survey = Survey()
    domains = survey.look("libvirt", lambda: _look_at_libvirt(uri), lambda found: found[0])
    _look_at_store(survey, store, [] if domains is None else domains[1])
    survey.look("runtime directory", lambda: _check_runtime_dir(runtime_dir), lambda detail: detail)
    _look_for_leftovers(survey, runtime_dir, [*([store] if store else []), *directories])
    return survey.findings


def _look_at_libvirt(uri: str) -> tuple[str, list[Domain]]:
    """Return a sentence and the domains."""
    hypervisor = connect(uri)
    try:
        domains, versions = hypervisor.list_domains(), hypervisor.versions()
    finally:
        hypervisor.close()
    running = sum(domain.is_active for domain in domains)
    versions_text = f"libvirt {versions.libvirt}, {hypervisor.driver} {versions.hypervisor}"
    return f"{uri} answers: {versions_text}, {len(domains)} domains, {running} active", domains


def _look_at_store(survey: Survey, store: Path | None, domains: list[Domain]) -> None:
    if store is None:
        survey.warn("store", "none is configured: every save needs --to (or --store with --local)")
        return
    is_there = survey.look("store", lambda: _check_private(store), lambda _: f"{store} takes restore points")
    if is_there is None:
        return
    survey.look(
        "page cache",
        lambda: probe_direct_io(store, BypassPolicy.REQUIRE),
        lambda rate: f"bypassed at {store}, nothing stays resident, {format_size(rate)}/s in a short trial",
    )
    survey.look("space", lambda: _check_space(store, domains), lambda detail: detail)


def _check_private(directory: Path) -> bool:
    """Refuse a directory that cannot be written, or that others may read: guests' memory holds secrets."""
    check_directory(directory)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & _OTHERS:
        raise StorageError(
            str(directory), f"mode {mode:04o}, open to others", "0700", f"chmod 700 {directory}"
        )
    return True


def _check_space(store: Path, domains: list[Domain]) -> str:
    """Refuse a store that could not take the largest active guest."""
    free = free_bytes(store)
    needed = [estimate_image(domain) for domain in domains if domain.is_active]
    largest, together = max(needed, default=0), sum(needed)
    if free < largest:
        raise NoSpaceError(
            str(store), f"{format_size(free)} free", f"{format_size(largest)} for the largest active guest",
            "free space or prune restore points",
        )  # fmt: skip
    many = "" if free >= together else f", too little to save all active guests ({format_size(together)})"
    return f"{format_size(free)} free{many}"


def _check_runtime_dir(runtime_dir: Path) -> str:
    # Not Path.exists(): it raises where one may not look, which check_directory() says better.
    if not os.path.exists(runtime_dir):  # noqa: PTH110
        nearest = next(parent for parent in runtime_dir.parents if os.path.exists(parent))  # noqa: PTH110
        check_directory(nearest)
        return f"{runtime_dir} will be made when it is needed"
    _check_private(runtime_dir)
    return f"{runtime_dir} is private and writable"


def _look_for_leftovers(survey: Survey, runtime_dir: Path, directories: Sequence[Path]) -> None:
    """Add a finding for each thing that a dead engine left."""
    try:
        leftovers = list_leftovers(runtime_dir, directories)
    except OSError as error:
        where = error.filename or str(runtime_dir)
        unreadable = StorageError(where, error.strerror or str(error), "a directory this user may read")
        survey.findings.append(Finding(name="leftovers", detail=str(unreadable), error=unreadable))
        return
    for path in leftovers:
        left: EngineError = TryAgainError(
            str(path), _describe_leftover(path), "nothing left", "fleetsave doctor --fix puts it right"
        )
        survey.findings.append(Finding(name="leftovers", detail=str(left), error=left))
    if not leftovers:
        survey.findings.append(Finding(name="leftovers", detail="no dead engine has left anything"))


def _describe_leftover(path: Path) -> str:
    pipes = sum(stat.S_ISFIFO(entry.lstat().st_mode) for entry in path.iterdir())
    return "left by an engine that died" + (f", with {pipes} stale FIFOs" if pipes else "")
