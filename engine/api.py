"""Offer the engine's operations to Python: libvirt's calls, with proof."""

from __future__ import annotations

import enum
import functools
import operator
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from engine.cancel import CancelToken
from engine.checkpoint import checkpoint
from engine.dump import core_dump
from engine.errors import InvalidArgumentError, ReadOnlyError
from engine.flags import BypassPolicy, DumpFlags, DumpFormat, SaveFlags, StartFlags
from engine.hypervisor.connect import connect
from engine.hypervisor.port import Hypervisor
from engine.managed import managed_save, managed_save_remove, start
from engine.newxml import XmlWish
from engine.observer import Observer, SilentObserver
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import SaveSurvey, survey_save
from engine.recover import Recovery
from engine.recover import recover as put_right
from engine.request import is_path
from engine.restore import restore
from engine.restoreplan import RestoreSurvey, open_source, survey_restore
from engine.save import save
from engine.streamsave import SaveOptions

FlagT = TypeVar("FlagT", bound=enum.IntFlag)
#: What a call that writes an image takes: nothing about firmware, which is for the restore.
_WRITING: Final = frozenset(SaveFlags) - {SaveFlags.RESET_NVRAM}


class Engine:
    """Operations on the domains of one hypervisor; one connection, one operation at a time.

    Args:
        uri: libvirt connection URI.
        runtime_dir: 0700 directory for pipes and locks; made when missing.
        host: name of this host in manifests and outcomes.
        store: directory that holds restore points.
        allowed_roots: directories that images may be in; None = anywhere.
        managed_save_dir: where libvirt keeps managed save images, so that they can be measured.
        read_only: refuse every change.
        observer: told of steps and progress.
        cancel: stops the operation that runs.
    """

    def __init__(
        self,
        uri: str,
        *,
        runtime_dir: Path | str,
        host: str = "localhost",
        store: Path | str | None = None,
        allowed_roots: Sequence[str] | None = None,
        managed_save_dir: Path | str | None = None,
        read_only: bool = False,
        observer: Observer | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self._read_only = read_only
        self._runtime_dir = Path(runtime_dir).absolute()
        self._host = host
        self._store = None if store is None else Path(store).absolute()
        self._allowed_roots = None if allowed_roots is None else tuple(allowed_roots)
        self._managed_save_dir = None if managed_save_dir is None else Path(managed_save_dir).absolute()
        self._observer = observer or SilentObserver()
        self._cancel = cancel or CancelToken()
        self._hypervisor = connect(uri, read_only=read_only)

    def save(
        self,
        domain: str,
        to: Path | str | None = None,
        dxml: str | None = None,
        flags: int = 0,
        *,
        rules: str | None = None,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        zstd_level: int | None = None,
        bandwidth: int | None = None,
        data_path: str = "stream",
        image_format: str | None = None,
        channels: int | None = None,
        job_id: str | None = None,
    ) -> Outcome:
        """Save a domain into a file, or into a new restore point of the store (virDomainSaveFlags).

        Rules (TOML) make the dxml from the guest's own XML.
        """
        options = replace(
            _options("virDomainSaveFlags", flags, bypass_cache, zstd_level, bandwidth),
            data_path=data_path,
            image_format=image_format,
            channels=channels,
        )
        target = None if to is None else self._absolute(to, "to")
        wish = XmlWish(dxml=dxml, rules=rules)
        return save(self._operation("virDomainSaveFlags", job_id), domain, target, wish=wish, options=options)

    def checkpoint(
        self,
        domain: str,
        to: Path | str | None = None,
        flags: int = 0,
        *,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        zstd_level: int | None = None,
        bandwidth: int | None = None,
        max_pause_seconds: float | None = None,
        job_id: str | None = None,
    ) -> Outcome:
        """Take an image of a guest that goes on running (virDomainSnapshotCreateXML, memory alone, live)."""
        return checkpoint(
            self._operation("virDomainSnapshotCreateXML", job_id),
            domain,
            None if to is None else self._absolute(to, "to"),
            options=_options("virDomainSnapshotCreateXML", flags, bypass_cache, zstd_level, bandwidth),
            max_pause_seconds=max_pause_seconds,
        )

    def restore(
        self,
        path: Path | str,
        dxml: str | None = None,
        flags: int = 0,
        *,
        rules: str | None = None,
        new_name: str | None = None,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        data_path: str = "stream",
        force_stale_disks: bool = False,
        job_id: str | None = None,
    ) -> Outcome:
        """Start a guest from an image or a restore point (virDomainRestoreFlags).

        Rules (TOML) make the dxml from the image's own XML. With a new name the guest is a copy
        beside the original. Disks that were written since the guest was saved are refused
        unless force_stale_disks.
        """
        given = _flags(SaveFlags, flags, "virDomainRestoreFlags")
        policy = _policy(bypass_cache, is_required=SaveFlags.BYPASS_CACHE in given)
        return restore(
            self._operation("virDomainRestoreFlags", job_id),
            self._absolute(path, "from"),
            wish=XmlWish(dxml=dxml, rules=rules, new_name=new_name),
            flags=given,
            policy=policy,
            data_path=data_path,
            force_stale_disks=force_stale_disks,
        )

    def core_dump(
        self,
        domain: str,
        to: Path | str,
        dump_format: int = 0,
        flags: int = 0,
        *,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        job_id: str | None = None,
    ) -> Outcome:
        """Write a guest's memory into a core file (virDomainCoreDumpWithFormat)."""
        given = _flags(DumpFlags, flags, "virDomainCoreDumpWithFormat")
        if dump_format not in set(DumpFormat):
            raise InvalidArgumentError("dump_format", str(dump_format), f"0 to {max(DumpFormat)}")
        return core_dump(
            self._operation("virDomainCoreDumpWithFormat", job_id),
            domain,
            self._absolute(to, "to"),
            dump_format=DumpFormat(dump_format),
            flags=given,
            policy=_policy(bypass_cache, is_required=DumpFlags.BYPASS_CACHE in given),
        )

    def survey_save(
        self,
        domain: str,
        to: Path | str | None = None,
        dxml: str | None = None,
        *,
        rules: str | None = None,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        live: bool = False,
    ) -> SaveSurvey:
        """Look at everything that a save or (live) checkpoint depends on; touch no guest."""
        target = None if to is None else self._absolute(to, "to")
        operation = self._operation("virDomainSaveFlags", None)
        return survey_save(
            operation,
            domain,
            target,
            XmlWish(dxml=dxml, rules=rules),
            _policy(bypass_cache, is_required=False),
            live=live,
        )

    def survey_restore(
        self,
        path: Path | str,
        dxml: str | None = None,
        *,
        rules: str | None = None,
        new_name: str | None = None,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        force_stale_disks: bool = False,
    ) -> RestoreSurvey:
        """Look at everything that a restore depends on; start no guest.

        Raises:
            EngineError: there is no image that could be looked at.
        """
        operation = self._operation("virDomainRestoreFlags", None)
        policy = _policy(bypass_cache, is_required=False)
        wish = XmlWish(dxml=dxml, rules=rules, new_name=new_name)
        with open_source(operation, self._absolute(path, "from"), policy) as image:
            return survey_restore(operation, image, wish, force_stale_disks=force_stale_disks)

    def managed_save_remove(self, domain: str, *, job_id: str | None = None) -> Outcome:
        """Throw a domain's managed save image away (virDomainManagedSaveRemove)."""
        return managed_save_remove(self._operation("virDomainManagedSaveRemove", job_id), domain)

    def managed_save(
        self,
        domain: str,
        flags: int = 0,
        *,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        job_id: str | None = None,
    ) -> Outcome:
        """Let libvirt keep the guest's image until the next start (virDomainManagedSave)."""
        given = _flags(_WRITING, flags, "virDomainManagedSave")
        policy = _policy(bypass_cache, is_required=SaveFlags.BYPASS_CACHE in given)
        return managed_save(
            self._operation("virDomainManagedSave", job_id), domain, flags=given, policy=policy
        )

    def start(
        self,
        domain: str,
        flags: int = 0,
        *,
        bypass_cache: BypassPolicy | str = BypassPolicy.REQUIRE,
        job_id: str | None = None,
    ) -> Outcome:
        """Start a domain, from its managed save image where it has one (virDomainCreateWithFlags)."""
        given = _flags(StartFlags, flags, "virDomainCreateWithFlags")
        policy = _policy(bypass_cache, is_required=StartFlags.BYPASS_CACHE in given)
        return start(self._operation("virDomainCreateWithFlags", job_id), domain, flags=given, policy=policy)

    def close(self) -> None:
        """End the connection."""
        self._hypervisor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _operation(self, call: str, job_id: str | None) -> Operation:
        if self._read_only:
            raise ReadOnlyError(
                call, "operation forbidden: the engine is read-only", "", "open it without read_only"
            )
        return Operation(
            job_id=job_id or uuid.uuid4().hex,
            host=self._host,
            hypervisor=self._hypervisor,
            runtime_dir=self._runtime_dir,
            observer=self._observer,
            cancel=self._cancel,
            store=self._store,
            allowed_roots=self._allowed_roots,
            managed_save_dir=self._managed_save_dir,
        )

    @staticmethod
    def _absolute(path: Path | str, name: str) -> Path:
        """Return the path by this process's working directory, as libvirt's client does."""
        if not str(path):
            raise InvalidArgumentError(name, "must not be empty", "a path")
        if not is_path(str(path)):
            raise InvalidArgumentError(name, f"{str(path)!r} is no path", "one that a file can have")
        return Path(path).absolute()


def _options(
    call: str,
    flags: int,
    bypass_cache: BypassPolicy | str,
    zstd_level: int | None,
    bandwidth: int | None,
) -> SaveOptions:
    given = _flags(_WRITING, flags, call)
    policy = _policy(bypass_cache, is_required=SaveFlags.BYPASS_CACHE in given)
    return SaveOptions(flags=given, policy=policy, zstd_level=zstd_level, bandwidth=bandwidth)


def _flags(known: Iterable[FlagT], given: int, call: str) -> FlagT:
    """Return the flags of a call; refuse those it does not take, in libvirt's words."""
    taken = functools.reduce(operator.or_, known)
    if given & ~int(taken):
        raise InvalidArgumentError(call, f"unsupported flags ({given & ~int(taken):#x})", f"among {taken!r}")
    return type(taken)(given)


def _policy(given: BypassPolicy | str, *, is_required: bool) -> BypassPolicy:
    if given not in set(BypassPolicy):
        raise InvalidArgumentError("bypass_cache", repr(given), " or ".join(BypassPolicy))
    policy = BypassPolicy(given)
    if is_required and policy is BypassPolicy.OFF:
        raise InvalidArgumentError("bypass_cache", "off, yet the flag BYPASS_CACHE is set", "one of the two")
    return BypassPolicy.REQUIRE if is_required else policy


def recover(
    uri: str,
    *,
    runtime_dir: Path | str,
    directories: Sequence[Path | str] = (),
    job_id: str | None = None,
) -> list[Recovery]:
    """Put right what engines left that are dead now: staging, images, guests.

    Args:
        uri: libvirt connection URI; connected to only when a guest has to be looked at.
        runtime_dir: the engines' runtime directory.
        directories: stores, and directories that images were saved into.
        job_id: put right only what this job left; None = all.
    """
    opened: list[Hypervisor] = []

    def open_once() -> Hypervisor:
        if not opened:
            opened.append(connect(uri))
        return opened[0]

    try:
        places = [Path(directory) for directory in directories]
        return put_right(Path(runtime_dir), places, open_once, job_id=job_id)
    finally:
        for hypervisor in opened:
            hypervisor.close()
