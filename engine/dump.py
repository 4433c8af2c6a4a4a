"""Write a guest's memory into a core file, past the page cache.

libvirt is given the stream as its target, as for a save; it opens it once and never looks
at it again.
Source: libvirt src/qemu/qemu_driver.c, doCoreDump().
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from engine.cancel import CancelToken
from engine.describe import Transfer, describe_image, describe_outcome, describe_record
from engine.directio.buffers import BufferRing
from engine.directio.feed import RawFeed
from engine.directio.target import DirectFile, open_direct
from engine.directio.writer import write_stream
from engine.disks.identify import identify_disks
from engine.errors import InvalidArgumentError
from engine.flags import BypassPolicy, DumpFlags, DumpFormat
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.stream import SaveStream
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import SavePlan, preflight_save
from engine.steps import Step
from engine.store.staging import Staging
from engine.store.workspace import lock_domain, open_workspace

#: Flags after which the guest is not what it was.
_ENDING: Final = DumpFlags.CRASH | DumpFlags.RESET


def core_dump(
    operation: Operation,
    name: str,
    to: Path,
    *,
    dump_format: DumpFormat = DumpFormat.RAW,
    flags: DumpFlags = DumpFlags.NONE,
    policy: BypassPolicy = BypassPolicy.REQUIRE,
) -> Outcome:
    """Write the guest's memory into the file `to`; what the guest does afterwards is up to the flags.

    Raises:
        InvalidArgumentError: flags that exclude each other.
        EngineError: nothing is under the final name, and the guest is as it was.
    """
    check_dump_flags(flags)
    plan = preflight_save(operation, name, to, None, policy)
    operation.reach(Step.PREFLIGHT)
    domain_xml = operation.hypervisor.domain_xml(plan.domain.uuid)
    with (
        lock_domain(operation.runtime_dir, plan.domain.uuid, plan.domain.name),
        open_workspace(operation.runtime_dir, operation.job_id, plan.place.staging) as workspace,
    ):
        staging = Staging(plan.place, describe_record(operation, plan, op="dump"))
        try:
            staging.create()
            operation.reach(Step.STAGING)
            file = open_direct(staging.image, os.O_RDWR | os.O_CREAT | os.O_EXCL, policy)
            try:
                began = time.monotonic()
                transfer = _transfer(operation, plan, file, workspace, (dump_format, flags))
            finally:
                file.close()
            operation = _unstoppable(operation, flags)
            manifest = describe_image(
                operation,
                plan,
                transfer,
                op="dump",
                domain_xml=domain_xml,
                was_running=plan.domain.is_running,
                paused_seconds=operation.paused_seconds(plan.domain.uuid, began),
                disks=identify_disks(plan.disks),
            )
            staging.prepare(manifest.to_json(), domain_xml)
            operation.reach(Step.PREPARED)
            path = staging.publish()
        except BaseException:
            staging.discard()
            raise
        finally:
            staging.release()
    operation.reach(Step.PUBLISHED)
    operation.reach(Step.DONE)
    state = operation.hypervisor.find_domain(plan.domain.uuid).state if plan.domain.is_persistent else ""
    return describe_outcome(operation, manifest, str(path), state=state)


def _transfer(
    operation: Operation,
    plan: SavePlan,
    file: DirectFile,
    workspace: Path,
    how: tuple[DumpFormat, DumpFlags],
) -> Transfer:
    """Write the whole dump into staging, durably; on failure libvirt lets the guest go on."""
    stream = SaveStream(workspace, operation.cancel)
    plain = int(how[1] & ~DumpFlags.BYPASS_CACHE)
    call = HypervisorCall(
        lambda: operation.hypervisor.core_dump(plan.domain.uuid, stream.path, int(how[0]), plain)
    )
    try:
        operation.reach(Step.CALL)
        call.start()
        stream.wait_opened(call)
        operation.reach(Step.OPENED)
        began = time.monotonic()
        operation.reach(Step.STREAM)
        written = write_stream(
            RawFeed(stream.source, operation.cancel, str(file.path)),
            file,
            BufferRing(),
            finish_block=lambda block: block,
            on_progress=lambda done: operation.observer.progress(done, max(done, plan.estimate_bytes)),
            cancel=operation.cancel,
        )
        if how[1] & _ENDING:
            operation.reach(Step.COMMIT)
        operation = _unstoppable(operation, how[1])
        operation.reach(Step.DRAINED)
    except BaseException:
        if call.has_begun:
            stream.abort(call)
        stream.close()
        if call.has_begun:
            operation.put_back(plan.domain)
        raise
    call.wait()
    stream.close()
    if call.error is not None:
        raise call.error
    operation.reach(Step.COMMITTED)
    file.truncate(written.size)
    file.sync()
    operation.reach(Step.SYNCED)
    seconds = time.monotonic() - began
    resident = file.check_bypassed()
    operation.reach(Step.VERIFIED)
    return Transfer(
        file=file,
        size=written.size,
        checksum=written.checksum,
        final_block=b"",
        seconds=seconds,
        resident_bytes=resident,
    )


def _unstoppable(operation: Operation, flags: DumpFlags) -> Operation:
    """Return the operation as it goes on once the stream has ended.

    libvirt ends or resets the guest as soon as the last byte is out, if it was told to: the file is all
    there is of what it was, and a wish to stop comes too late.
    """
    return replace(operation, cancel=CancelToken()) if flags & _ENDING else operation


def check_dump_flags(flags: DumpFlags) -> None:
    """Refuse flags that exclude each other, as libvirt does.

    Raises:
        InvalidArgumentError: two of CRASH, LIVE and RESET.
    """
    exclusive = {DumpFlags.CRASH: "--crash", DumpFlags.LIVE: "--live", DumpFlags.RESET: "--reset"}
    given = [name for flag, name in exclusive.items() if flag in flags]
    if len(given) > 1:
        raise InvalidArgumentError(
            "flags", f"{' and '.join(given)} are mutually exclusive", "at most one of them"
        )
