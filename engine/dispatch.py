"""Call the engine with what a request says."""

from __future__ import annotations

from typing import Any

from engine.api import Engine
from engine.errors import InvalidArgumentError
from engine.flags import SaveFlags, StartFlags
from engine.outcome import Outcome
from engine.request import EngineRequest


def perform(engine: Engine, request: EngineRequest) -> Outcome:  # noqa: PLR0911 - one for each operation
    """Run the request's operation; where to connect and to write is the engine's own affair.

    Raises:
        EngineError: it failed.
    """
    common: dict[str, Any] = {"bypass_cache": request.bypass_cache, "job_id": request.job_id}
    image: dict[str, Any] = {**common, "zstd_level": request.zstd_level, "bandwidth": request.bandwidth}
    domain = request.domain or ""
    match request.op:
        case "save":
            native: dict[str, Any] = {
                "data_path": request.data_path,
                "image_format": request.image_format,
                "channels": request.channels,
                "rules": request.rules,
            }
            return engine.save(domain, request.to, request.dxml, _save_flags(request), **image, **native)
        case "checkpoint":
            limit = request.max_pause_milliseconds
            seconds = None if limit is None else limit / 1000
            return engine.checkpoint(
                domain, request.to, _save_flags(request), max_pause_seconds=seconds, **image
            )
        case "dump":
            return engine.core_dump(
                domain, request.to or "", request.dump_format, request.dump_flags, **common
            )
        case "restore":
            return engine.restore(
                request.path or "",
                request.dxml,
                _save_flags(request),
                rules=request.rules,
                new_name=request.new_name,
                data_path=request.data_path,
                force_stale_disks=request.force_stale_disks,
                **common,
            )
        case "managed-save":
            return engine.managed_save(domain, _save_flags(request), **common)
        case "managed-save-remove":
            return engine.managed_save_remove(domain, job_id=request.job_id)
        case "start":
            return engine.start(domain, _start_flags(request), **common)
        case other:
            raise InvalidArgumentError("request", f"operation {other!r}", "one that the engine knows")


def _save_flags(request: EngineRequest) -> SaveFlags:
    flags = SaveFlags.NONE
    for is_set, flag in (
        (request.running, SaveFlags.RUNNING),
        (request.paused, SaveFlags.PAUSED),
        (request.reset_nvram, SaveFlags.RESET_NVRAM),
    ):
        flags |= flag if is_set else SaveFlags.NONE
    return flags


def _start_flags(request: EngineRequest) -> StartFlags:
    flags = StartFlags.NONE
    for is_set, flag in (
        (request.paused, StartFlags.PAUSED),
        (request.autodestroy, StartFlags.AUTODESTROY),
        (request.force_boot, StartFlags.FORCE_BOOT),
    ):
        flags |= flag if is_set else StartFlags.NONE
    return flags
