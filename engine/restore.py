"""Restore one guest from a save image: read past the page cache, proven before the guest runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from engine.describe import Transfer
from engine.directio.buffers import BufferRing
from engine.directio.reader import read_stream
from engine.editcopy import open_edited_copy
from engine.errors import EngineError
from engine.flags import BypassPolicy, SaveFlags
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.stream import RestoreStream
from engine.image.edit import edit_head
from engine.image.header import ImageFormat
from engine.imagesender import ImageSender, front_for_hypervisor
from engine.native import run_with_policy
from engine.newxml import XmlWish
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import check_flags, check_streams
from engine.restoreplan import RestorePlan, look_at_disks, open_source, survey_restore
from engine.steps import Step
from engine.store.images import OpenImage
from engine.store.workspace import lock_domain, open_workspace


def restore(
    operation: Operation,
    path: Path,
    *,
    wish: XmlWish | None = None,
    flags: SaveFlags = SaveFlags.NONE,
    policy: BypassPolicy = BypassPolicy.REQUIRE,
    data_path: str = "stream",
    force_stale_disks: bool = False,
) -> Outcome:
    """Start a guest from a save image or a restore point, ours or one that virsh made.

    Where a manifest lies beside the image, every byte is checked before QEMU gets the
    last ones: a damaged image never runs. The image itself is only read.

    Raises:
        StaleDiskError: a disk was written since the guest was saved; force_stale_disks goes on.
        EngineError: no guest was started, and the image is untouched.
    """
    check_flags(flags)
    with open_source(operation, path, policy) as image:
        survey = survey_restore(operation, image, wish or XmlWish(), force_stale_disks=force_stale_disks)
        survey.raise_first()
        plan = survey.plan
        assert plan is not None, "no finding stands in the way"
        work = _Restore(operation, image, plan, flags, force_stale_disks=force_stale_disks)
        operation.reach(Step.PREFLIGHT)
        with (
            lock_domain(operation.runtime_dir, plan.uuid, plan.name),
            open_workspace(operation.runtime_dir, operation.job_id) as workspace,
        ):
            # QEMU reads a sparse image by itself: it jumps about in the file.
            if data_path == "native" or image.head.header.format is ImageFormat.SPARSE:
                return work.run_native(path)
            check_streams(operation.hypervisor)
            return work.run(workspace, path)


class _Restore:
    """One restore that may begin."""

    def __init__(
        self,
        operation: Operation,
        image: OpenImage,
        plan: RestorePlan,
        flags: SaveFlags,
        *,
        force_stale_disks: bool,
    ) -> None:
        self._operation = operation
        self._image = image
        self._plan = plan
        self._flags = flags
        self._force_stale_disks = force_stale_disks

    def run(self, workspace: Path, path: Path) -> Outcome:
        """Feed libvirt; return once the guest is there."""
        operation = self._operation
        stream = RestoreStream(workspace, operation.cancel)
        libvirt_flags = int(self._flags & ~SaveFlags.BYPASS_CACHE)
        call = HypervisorCall(
            lambda: operation.hypervisor.restore(stream.path, self._plan.xml.dxml, libvirt_flags)
        )
        called_at = time.monotonic()
        try:
            operation.reach(Step.CALL)
            call.start()
            transfer = self._feed(stream, call)
            call.wait()
        except BaseException as error:
            self._abort(stream, call, error)
            raise
        stream.close()
        if call.error is not None:
            raise call.error
        operation.reach(Step.COMMITTED)
        operation.reach(Step.DONE)
        return self._outcome(path, transfer, self._stopped_seconds(called_at, call))

    def run_native(self, path: Path) -> Outcome:
        """Prove the image first, then let libvirt read it by itself."""
        operation, image = self._operation, self._image
        if image.manifest is not None:
            read_stream(
                image.file,
                image.size,
                BufferRing(),
                expected=image.manifest.checksum,
                deliver=lambda _data: None,
                before_last=lambda: None,
                on_progress=lambda done: operation.observer.progress(done, image.size),
                cancel=operation.cancel,
            )
        operation.reach(Step.VERIFIED)
        # Reading the image took long enough for somebody to run the guest without it.
        look_at_disks(operation, image, self._plan.xml, self._force_stale_disks)
        with self._native_source() as source:
            restore_from = partial(self._restore_native, source)
            call = HypervisorCall(
                lambda: run_with_policy(image.file.policy, restore_from, image.file.failures)
            )
            called_at = time.monotonic()
            operation.reach(Step.CALL)
            operation.reach(Step.COMMIT)
            call.start()
            call.wait()
        if call.error is not None:
            raise call.error
        operation.reach(Step.COMMITTED)
        # libvirt reads the head through the cache even with its flag.
        image.file.forget_cached()
        checksum = image.manifest.checksum if image.manifest else None
        transfer = Transfer(
            file=image.file,
            size=image.size,
            checksum=checksum,
            final_block=b"",
            seconds=call.returned_at - called_at,
            resident_bytes=image.file.resident_bytes(),
        )
        operation.reach(Step.DONE)
        return self._outcome(path, transfer, self._stopped_seconds(called_at, call), data_path="native")

    @contextmanager
    def _native_source(self) -> Iterator[Path]:
        """Give the file that libvirt is to read: the image, or while the block runs a copy of it, renamed."""
        image, operation = self._image, self._operation
        if not self._plan.xml.is_copy:
            yield image.file.path
            return
        path = str(image.file.path)
        edited = edit_head(image.head, path=path, domain_xml=self._plan.xml.xml)

        def note(done_bytes: int) -> None:
            operation.cancel.raise_if_cancelled(path)
            operation.observer.progress(done_bytes, image.size)

        with open_edited_copy(image, edited, operation.job_id, on_progress=note) as copy:
            yield copy

    def _restore_native(self, source: Path, bypass: bool) -> None:
        flags = int(self._flags & ~SaveFlags.BYPASS_CACHE) | (SaveFlags.BYPASS_CACHE if bypass else 0)
        self._operation.hypervisor.restore(str(source), self._plan.xml.dxml, flags)

    def _feed(self, stream: RestoreStream, call: HypervisorCall) -> Transfer:
        """Send the image into libvirt's hands, the last bytes only when all of it is proven."""
        operation, image = self._operation, self._image
        head = image.head.header
        xml = self._plan.xml
        front = front_for_hypervisor(
            image.head,
            image.first_bytes,
            path=str(image.file.path),
            # libvirt takes no other name from a dxml; what it reads, it believes.
            domain_xml=xml.xml if xml.is_copy else None,
        )
        stream.send_head(front, call)
        operation.reach(Step.OPENED)
        began = time.monotonic()
        sender = ImageSender(
            image.first_bytes[: head.stream_offset],
            front,
            is_packed=head.format is ImageFormat.ZSTD,
            send_first=lambda data: stream.send_first(data, call),
            send=stream.send,
            on_first=lambda: operation.reach(Step.STREAM),
        )
        checksum = read_stream(
            image.file,
            image.size,
            BufferRing(),
            expected=image.manifest.checksum if image.manifest else None,
            deliver=sender.deliver,
            before_last=lambda: self._commit(stream),
            on_progress=lambda done: operation.observer.progress(done, image.size),
            cancel=operation.cancel,
        )
        sender.finish()
        stream.finish()
        return Transfer(
            file=image.file,
            size=image.size,
            checksum=checksum,
            final_block=b"",
            seconds=time.monotonic() - began,
            resident_bytes=image.file.resident_bytes(),
        )

    def _commit(self, stream: RestoreStream) -> None:
        """Let the last bytes go: every byte was read and has matched; QEMU still lacks those."""
        self._operation.reach(Step.DRAINED)
        self._image.file.check_bypassed()
        self._operation.reach(Step.VERIFIED)
        self._operation.reach(Step.COMMIT)
        stream.commit()

    def _abort(self, stream: RestoreStream, call: HypervisorCall, error: BaseException) -> None:
        """Leave the stream and wait until libvirt has taken the half guest down."""
        refusal = stream.abort(call) if call.has_begun else None
        stream.close()
        if isinstance(error, BrokenPipeError):
            # QEMU or libvirt left first: they know why.
            raise refusal or EngineError(
                self._plan.name, "libvirt stopped reading the image", "all of it"
            ) from error

    def _stopped_seconds(self, called_at: float, call: HypervisorCall) -> float:
        """Return the seconds from the call until the guest's CPUs ran, or until the call returned."""
        resumed = [
            at
            for at, what in self._operation.hypervisor.pauses(self._plan.uuid)
            if what == "resumed" and at >= called_at
        ]
        return (resumed[0] if resumed else call.returned_at) - called_at

    def _outcome(
        self, path: Path, transfer: Transfer, stopped_seconds: float, data_path: str = "stream"
    ) -> Outcome:
        operation = self._operation
        state = ""
        with suppress(EngineError):  # a guest that ends right away was restored all the same
            state = operation.hypervisor.find_domain(self._plan.uuid).state
        return Outcome(
            op="restore",
            job_id=operation.job_id,
            domain=self._plan.name,
            domain_uuid=self._plan.uuid,
            host=operation.host,
            path=str(path),
            bytes=transfer.size,
            duration_seconds=operation.seconds(),
            guest_paused_seconds=stopped_seconds,
            throughput_bytes_per_second=transfer.throughput(),
            was_running=self._image.head.header.was_running,
            bypass_cache=transfer.bypass_report(),
            checksum=transfer.checksum,
            data_path=data_path,
            simulated=operation.hypervisor.is_simulated,
            dxml_changes=self._plan.xml.changes,
            state=state,
            warnings=self._plan.warnings,
        )
