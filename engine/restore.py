"""Restore one guest from a save image: read past the page cache, proven before the guest runs."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from engine.describe import Transfer
from engine.directio.buffers import BufferRing
from engine.directio.reader import read_stream
from engine.domxml.changes import Change, list_changes
from engine.domxml.document import check_same_domain, identity_of, parse_domain_xml
from engine.errors import DomainXmlError, EngineError
from engine.flags import BypassPolicy, SaveFlags
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.stream import RestoreStream
from engine.image.header import ImageFormat
from engine.imagesender import ImageSender, front_for_hypervisor
from engine.machineguard import check_machine
from engine.native import run_with_policy
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import check_flags, check_restorable, check_streams
from engine.restoreguards import SavedDisks, check_disks
from engine.steps import Step
from engine.store.images import OpenImage, open_image
from engine.store.places import check_allowed, find_image
from engine.store.workspace import lock_domain, open_workspace


def restore(
    operation: Operation,
    path: Path,
    *,
    dxml: str | None = None,
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
    check_allowed(path, operation.allowed_roots)
    found = find_image(path)
    # A person's own link is followed; in a job it could lead out of the allowed directories.
    image = open_image(found.resolve() if operation.allowed_roots is None else found, policy)
    try:
        work = _Restore(operation, image, dxml, flags, force_stale_disks=force_stale_disks)
        operation.reach(Step.PREFLIGHT)
        with (
            lock_domain(operation.runtime_dir, work.uuid, work.name),
            open_workspace(operation.runtime_dir, operation.job_id) as workspace,
        ):
            # QEMU reads a sparse image by itself: it jumps about in the file.
            if data_path == "native" or image.head.header.format is ImageFormat.SPARSE:
                return work.run_native(path)
            check_streams(operation.hypervisor)
            return work.run(workspace, path)
    finally:
        image.file.close()


class _Restore:
    """One restore; making it is the preflight."""

    def __init__(
        self,
        operation: Operation,
        image: OpenImage,
        dxml: str | None,
        flags: SaveFlags,
        *,
        force_stale_disks: bool,
    ) -> None:
        self._operation = operation
        self._image = image
        self._dxml = dxml
        self._flags = flags
        self._force_stale_disks = force_stale_disks
        where = str(image.file.path)
        identity = identity_of(parse_domain_xml(image.head.domain_xml, where=where), where=where)
        if identity.uuid is None:
            raise DomainXmlError(where, "domain XML without a <uuid>", "one, as in every image libvirt makes")
        self.name, self.uuid = identity.name, str(identity.uuid)
        self._changes = self._check_dxml()
        check_restorable(operation.hypervisor, self.name, self.uuid)
        self._warnings = [*check_machine(operation.hypervisor, image, dxml), *self._check_disks()]

    def _check_dxml(self) -> tuple[Change, ...]:
        if self._dxml is None:
            return ()
        saved = self._image.head.domain_xml
        check_same_domain(saved, self._dxml, where="dxml")
        return list_changes(
            parse_domain_xml(saved, where="image"), parse_domain_xml(self._dxml, where="dxml")
        )

    def _check_disks(self) -> list[str]:
        image = self._image
        return check_disks(
            self._operation,
            self.name,
            image.head.domain_xml if self._dxml is None else self._dxml,
            SavedDisks.of(image.manifest, os.fstat(image.file.fd).st_mtime_ns),
            force_stale_disks=self._force_stale_disks,
        )

    def run(self, workspace: Path, path: Path) -> Outcome:
        """Feed libvirt; return once the guest is there."""
        operation = self._operation
        stream = RestoreStream(workspace, operation.cancel)
        libvirt_flags = int(self._flags & ~SaveFlags.BYPASS_CACHE)
        call = HypervisorCall(lambda: operation.hypervisor.restore(stream.path, self._dxml, libvirt_flags))
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
        call = HypervisorCall(
            lambda: run_with_policy(image.file.policy, self._restore_native, image.file.failures)
        )
        # Reading the image took long enough for somebody to run the guest without it.
        self._check_disks()
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

    def _restore_native(self, bypass: bool) -> None:
        flags = int(self._flags & ~SaveFlags.BYPASS_CACHE) | (SaveFlags.BYPASS_CACHE if bypass else 0)
        self._operation.hypervisor.restore(str(self._image.file.path), self._dxml, flags)

    def _feed(self, stream: RestoreStream, call: HypervisorCall) -> Transfer:
        """Send the image into libvirt's hands, the last bytes only when all of it is proven."""
        operation, image = self._operation, self._image
        head = image.head.header
        front = front_for_hypervisor(image.head, image.first_bytes, path=str(image.file.path))
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
                self.name, "libvirt stopped reading the image", "all of it"
            ) from error

    def _stopped_seconds(self, called_at: float, call: HypervisorCall) -> float:
        """Return the seconds from the call until the guest's CPUs ran, or until the call returned."""
        resumed = [
            at
            for at, what in self._operation.hypervisor.pauses(self.uuid)
            if what == "resumed" and at >= called_at
        ]
        return (resumed[0] if resumed else call.returned_at) - called_at

    def _outcome(
        self, path: Path, transfer: Transfer, stopped_seconds: float, data_path: str = "stream"
    ) -> Outcome:
        operation = self._operation
        state = ""
        with suppress(EngineError):  # a guest that ends right away was restored all the same
            state = operation.hypervisor.find_domain(self.uuid).state
        return Outcome(
            op="restore",
            job_id=operation.job_id,
            domain=self.name,
            domain_uuid=self.uuid,
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
            dxml_changes=self._changes,
            state=state,
            warnings=tuple(self._warnings),
        )
