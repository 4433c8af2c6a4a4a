"""Let libvirt do the I/O of a save or restore, and do around it what libvirt leaves out.

For drivers without the stream, and for the sparse format, which QEMU writes by itself. The
guest is gone before the image can be synced, so the stream is the default where it works.
Source: libvirt src/qemu/qemu_saveimage.c; QEMU docs/devel/migration/mapped-ram.rst.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.cancel import CancelToken
from engine.describe import Transfer, describe_image, describe_outcome, describe_record
from engine.directio.buffers import BufferRing
from engine.directio.reader import read_stream
from engine.directio.target import DirectFile, open_direct
from engine.disks.identify import identify_disks
from engine.errors import EngineError, HypervisorError, StorageError
from engine.flags import BypassFailure, BypassPolicy, SaveFlags
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import SavePlan
from engine.steps import Step
from engine.store.images import read_head
from engine.store.staging import Staging
from engine.store.workspace import lock_domain, open_workspace


def run_with_policy(
    policy: BypassPolicy, call: Callable[[bool], None], failures: list[BypassFailure]
) -> None:
    """Call libvirt with its bypass flag or without, as the policy says; note a fall-back.

    Raises:
        EngineError: libvirt's refusal; with `prefer` that of the second try.
    """
    try:
        call(policy is not BypassPolicy.OFF)
    except (StorageError, HypervisorError):
        if policy is not BypassPolicy.PREFER:
            raise
        failures.append(BypassFailure.FALLBACK_BUFFERED)
        call(False)


class NativeSave:
    """One image written by libvirt into staging, proven and published by us."""

    def __init__(
        self,
        operation: Operation,
        plan: SavePlan,
        *,
        flags: SaveFlags,
        policy: BypassPolicy,
        image_format: str | None,
        channels: int | None,
    ) -> None:
        self._operation = operation
        self._plan = plan
        self._flags = flags
        self._policy = policy
        self._image_format = image_format
        self._channels = channels
        self._failures: list[BypassFailure] = []
        self._is_only_copy = False
        self._staging = Staging(plan.place, describe_record(operation, plan, op="save", data_path="native"))

    def run(self) -> Outcome:
        """Do it; no staging is left unless it may hold the only copy of a guest."""
        operation, domain = self._operation, self._plan.domain
        with (
            lock_domain(operation.runtime_dir, domain.uuid, domain.name),
            open_workspace(operation.runtime_dir, operation.job_id, self._plan.place.staging),
        ):
            try:
                self._staging.create()
                operation.reach(Step.STAGING)
                return self._save()
            except BaseException:
                if not self._is_only_copy:
                    self._staging.discard()
                raise
            finally:
                self._staging.release()

    def _save(self) -> Outcome:
        operation = self._operation
        began = time.monotonic()
        operation.reach(Step.CALL)
        operation.reach(Step.COMMIT)
        self._is_only_copy = True
        try:
            run_with_policy(self._policy, self._call, self._failures)
        except EngineError:
            operation.put_back(self._plan.domain)
            self._is_only_copy = False
            raise
        # The guest is gone: whoever asks to stop now comes too late.
        self._operation = operation = replace(operation, cancel=CancelToken())
        operation.reach(Step.COMMITTED)
        # At once: reading the image back takes long enough for somebody to start the guest anew.
        disks = identify_disks(self._plan.disks, has_ended=True)
        # Direct where libvirt's own I/O was: what it wrote past the cache is read back so.
        policy = BypassPolicy.OFF if self._failures else self._policy
        file = open_direct(self._staging.image, os.O_RDWR, policy)
        try:
            file.sync()
            file.failures += self._failures
            return self._publish(file, began, disks)
        finally:
            file.close()

    def _call(self, bypass: bool) -> None:
        plain = int(self._flags & ~SaveFlags.BYPASS_CACHE) | (SaveFlags.BYPASS_CACHE if bypass else 0)
        path, uuid = str(self._staging.image), self._plan.domain.uuid
        if self._image_format is None and self._channels is None:
            self._operation.hypervisor.save(uuid, path, self._plan.dxml, plain)
        else:
            self._operation.hypervisor.save_as(
                uuid, path, self._plan.dxml, plain, image_format=self._image_format, channels=self._channels
            )

    def _publish(self, file: DirectFile, began: float, disks: list[dict[str, Any]]) -> Outcome:
        operation, plan = self._operation, self._plan
        seconds = time.monotonic() - began
        file.forget_cached()
        size = os.fstat(file.fd).st_size
        checksum = read_stream(
            file,
            size,
            BufferRing(),
            expected=None,
            deliver=lambda _data: None,
            before_last=lambda: None,
            on_progress=lambda done: operation.observer.progress(done, size),
            cancel=operation.cancel,
        )
        head, _ = read_head(file)
        transfer = Transfer(file=file, size=size, checksum=checksum, final_block=b"", seconds=seconds)
        transfer = replace(transfer, resident_bytes=file.resident_bytes())
        operation.reach(Step.VERIFIED)
        manifest = describe_image(
            operation,
            plan,
            transfer,
            op="save",
            domain_xml=head.domain_xml,
            was_running=head.header.was_running,
            paused_seconds=operation.paused_seconds(plan.domain.uuid, began),
            disks=disks,
            data_path="native",
            cookie=head.cookie,
        )
        self._staging.prepare(manifest.to_json(), head.domain_xml)
        operation.reach(Step.PREPARED)
        path = self._staging.publish()
        operation.reach(Step.PUBLISHED)
        operation.reach(Step.DONE)
        return describe_outcome(operation, manifest, str(path), state="saved")
