"""Take one image of a guest through the stream: staging, two-phase commit, publishing.

The order is the promise. Until Step.COMMIT any failure, and any death of this process,
lets the guest go on; from Step.PREPARED on the image in staging is whole and durable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engine.describe import Transfer, describe_image, describe_outcome, describe_record
from engine.directio.buffers import BufferRing
from engine.directio.feed import Feed, RawFeed, ZstdFeed
from engine.directio.ratelimit import RateLimit
from engine.directio.target import DirectFile, open_direct
from engine.directio.writer import write_stream
from engine.disks.identify import identify_disks
from engine.errors import EngineError, GuestGoneError, InvalidArgumentError, UndecidedError
from engine.flags import BypassPolicy, SaveFlags
from engine.hypervisor.call import HypervisorCall
from engine.hypervisor.stream import SaveStream
from engine.image.header import HEADER_SIZE, ImageFormat, parse_header
from engine.image.manifest import Manifest
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import SavePlan
from engine.steps import Step
from engine.store.images import read_head
from engine.store.staging import Staging
from engine.store.workspace import lock_domain, open_workspace

#: Of the library; the highest ones take more memory than they are worth.
_ZSTD_LEVEL_MAX: Final = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOptions:
    """How an image is to be written."""

    #: RUNNING or PAUSED: what the guest is after a restore; neither: as it is now.
    flags: SaveFlags = SaveFlags.NONE
    policy: BypassPolicy = BypassPolicy.REQUIRE
    #: zstd level; None = raw.
    zstd_level: int | None = None
    #: Bytes per second; None = as fast as it goes.
    bandwidth: int | None = None
    #: "stream", or "native": libvirt does its own I/O.
    data_path: str = "stream"
    #: Native only: libvirt's name of the format ("raw", "sparse", ...); None = as qemu.conf says.
    image_format: str | None = None
    #: Native and sparse only: parallel channels.
    channels: int | None = None

    def __post_init__(self) -> None:
        """Refuse what one of the two data paths cannot do."""
        if self.zstd_level is not None and not 1 <= self.zstd_level <= _ZSTD_LEVEL_MAX:
            raise InvalidArgumentError("zstd level", str(self.zstd_level), f"1 to {_ZSTD_LEVEL_MAX}")
        if self.bandwidth is not None and self.bandwidth < 1:
            raise InvalidArgumentError("bandwidth", f"{self.bandwidth} bytes a second", "1 or more")
        is_native = self.data_path == "native"
        if self.data_path not in {"stream", "native"}:
            raise InvalidArgumentError("data_path", repr(self.data_path), "stream or native")
        if is_native and (self.zstd_level is not None or self.bandwidth is not None):
            raise InvalidArgumentError(
                "data_path", "native with compression or a bandwidth", "stream for these"
            )
        if not is_native and (self.image_format is not None or self.channels is not None):
            raise InvalidArgumentError(
                "data_path", "stream with an image format or channels", "native for these"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageKind:
    """What tells a save from a checkpoint."""

    #: "save" or "checkpoint".
    op: str
    #: Calls the hypervisor with the path it is to write to.
    call: Callable[[str], None]
    #: The guest is gone once the hypervisor has passed the gate.
    guest_ends: bool
    #: Called again and again while bytes flow and before the commit; raises to give up.
    check: Callable[[], None] = lambda: None


class StreamSave:
    """One image, from staging to publishing."""

    def __init__(self, operation: Operation, plan: SavePlan, kind: ImageKind, options: SaveOptions) -> None:
        self._operation = operation
        self._plan = plan
        self._kind = kind
        self._options = options
        self._called_at = 0.0
        #: The guest has been let go, or may have been: the image in staging must not be thrown away.
        self._is_only_copy = False
        self._staging = Staging(plan.place, describe_record(operation, plan, op=kind.op))

    def run(self) -> Outcome:
        """Do it; no staging is left unless it may hold the only copy of a guest."""
        operation, domain = self._operation, self._plan.domain
        with (
            lock_domain(operation.runtime_dir, domain.uuid, domain.name),
            open_workspace(operation.runtime_dir, operation.job_id, self._plan.place.staging) as workspace,
        ):
            try:
                return self._stage(workspace)
            except BaseException:
                if not self._is_only_copy:
                    self._staging.discard()
                raise
            finally:
                self._staging.release()

    def _stage(self, workspace: Path) -> Outcome:
        self._staging.create()
        self._operation.reach(Step.STAGING)
        file = open_direct(self._staging.image, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._options.policy)
        try:
            file.reserve(self._plan.estimate_bytes)
            return self._transfer(file, SaveStream(workspace, self._operation.cancel))
        finally:
            file.close()

    def _transfer(self, file: DirectFile, stream: SaveStream) -> Outcome:
        operation = self._operation
        call = HypervisorCall(lambda: self._kind.call(stream.path))
        self._called_at = time.monotonic()
        try:
            operation.reach(Step.CALL)
            call.start()
            transfer = self._write(file, stream, call)
            # libvirt may have ended the stream because it failed: nothing is whole before it comes here.
            stream.wait_at_gate(call)
            manifest = self._prepare(file, transfer)
            self._kind.check()
            operation.reach(Step.COMMIT)
            self._is_only_copy = self._kind.guest_ends
            stream.commit(call)
        except BaseException:
            with self._kept_if_gone():
                self._abort(stream, call)
            self._is_only_copy = False
            raise
        call.wait()
        stream.close()
        with self._kept_if_gone():
            self._check_committed(call)
        operation.reach(Step.COMMITTED)
        return self._publish(manifest)

    def _write(self, file: DirectFile, stream: SaveStream, call: HypervisorCall) -> Transfer:
        """Write the whole stream into staging, durably, though not yet marked complete."""
        operation = self._operation
        stream.wait_opened(call)
        if self._kind.guest_ends:
            operation.observer.guest("paused")
        operation.reach(Step.OPENED)
        began = time.monotonic()
        operation.reach(Step.STREAM)
        written = write_stream(
            self._feed(stream),
            file,
            BufferRing(),
            finish_block=self._finish_block,
            on_progress=self._progress,
            cancel=operation.cancel,
            limit=RateLimit(self._options.bandwidth) if self._options.bandwidth else None,
        )
        operation.reach(Step.DRAINED)
        file.truncate(written.size)
        file.sync()
        operation.reach(Step.SYNCED)
        return Transfer(
            file=file,
            size=written.size,
            checksum=written.checksum,
            final_block=written.final_block,
            seconds=time.monotonic() - began,
        )

    def _feed(self, stream: SaveStream) -> Feed:
        raw = RawFeed(stream.source, self._operation.cancel, str(self._staging.image))
        if self._options.zstd_level is None:
            return raw
        return ZstdFeed(
            raw,
            level=self._options.zstd_level,
            head_size=lambda data: parse_header(data, path="save stream", accept_partial=True).stream_offset,
        )

    def _progress(self, done_bytes: int) -> None:
        self._kind.check()
        self._operation.observer.progress(done_bytes, max(done_bytes, self._plan.estimate_bytes))

    def _finish_block(self, block: bytes) -> bytes:
        """Return the image's first block as it stands in a complete image.

        No flag goes to libvirt: it would forget what the guest was when the save fails.
        Whether the guest runs after a restore stands in the header, which is ours to write.
        """
        header = parse_header(block, path="save stream", accept_partial=True)
        was_running = self._plan.domain.is_running
        if self._options.flags & (SaveFlags.RUNNING | SaveFlags.PAUSED):
            was_running = SaveFlags.RUNNING in self._options.flags
        image_format = header.format if self._options.zstd_level is None else ImageFormat.ZSTD
        finished = replace(header, is_complete=True, was_running=was_running, format=image_format)
        return finished.pack() + block[HEADER_SIZE:]

    def _prepare(self, file: DirectFile, transfer: Transfer) -> Manifest:
        """Mark the image complete, look at it from the disk, record that it is; the guest may go now."""
        buffer = BufferRing(count=1, size=file.block_size).take()
        assert buffer is not None
        buffer[: len(transfer.final_block)] = transfer.final_block
        file.write_at(buffer, 0)
        file.truncate(transfer.size)
        file.sync()
        head, _ = read_head(file)
        transfer = replace(transfer, resident_bytes=file.check_bypassed())
        self._operation.reach(Step.VERIFIED)
        manifest = describe_image(
            self._operation,
            self._plan,
            transfer,
            op=self._kind.op,
            domain_xml=head.domain_xml,
            was_running=head.header.was_running,
            paused_seconds=self._paused_seconds(),
            # Before its stream ended QEMU flushed its disks and let go of them: recovery relies on this.
            disks=identify_disks(self._plan.disks),
            cookie=head.cookie,
        )
        self._staging.prepare(manifest.to_json(), head.domain_xml)
        self._operation.reach(Step.PREPARED)
        return manifest

    def _abort(self, stream: SaveStream, call: HypervisorCall) -> None:
        """Leave the stream, wait until libvirt has put the guest back, see that it has."""
        if call.has_begun:
            stream.abort(call)
        stream.close()
        if call.has_begun:
            self._operation.put_back(self._plan.domain)
            self._operation.observer.guest("resumed")

    @contextmanager
    def _kept_if_gone(self) -> Iterator[None]:
        """Publish a whole image whose guest turns out to have ended by itself: nothing else is left of it."""
        try:
            yield
        except GuestGoneError as error:
            if not self._staging.is_prepared:
                raise
            self._is_only_copy = True
            path = self._staging.publish()
            raise GuestGoneError(
                error.where, error.found, "", f"its image, just taken, is whole: {path}"
            ) from error

    def _check_committed(self, call: HypervisorCall) -> None:
        """Raise libvirt's error if the image is not to be published.

        An error with the guest gone is no failure of a save: libvirt stumbled while cleaning up.
        """
        if call.error is None:
            return
        if not self._kind.guest_ends:
            self._operation.put_back(self._plan.domain)
            raise call.error
        before = self._plan.domain
        try:
            domains = self._operation.hypervisor.list_domains()
        except EngineError as error:
            raise UndecidedError(
                before.name,
                f"libvirt went away while the guest was let go ({call.error})",
                "",
                f"its image is kept, whole, in {self._plan.place.staging}: see whether it still runs",
            ) from error
        if any(now.uuid == before.uuid and now.run_id == before.run_id for now in domains):
            self._is_only_copy = False
            self._operation.put_back(before)
            raise call.error

    def _paused_seconds(self) -> float:
        return self._operation.paused_seconds(self._plan.domain.uuid, self._called_at)

    def _publish(self, manifest: Manifest) -> Outcome:
        manifest = replace(
            manifest, guest_paused_seconds=self._paused_seconds(), duration_seconds=self._operation.seconds()
        )
        if self._kind.guest_ends:
            # Once more: QEMU has closed them only now.
            manifest = replace(manifest, disks=identify_disks(self._plan.disks, has_ended=True))
        path = self._staging.publish(manifest.to_json())
        self._operation.reach(Step.PUBLISHED)
        self._operation.reach(Step.DONE)
        state = "saved" if self._kind.guest_ends else "running"
        return describe_outcome(self._operation, manifest, str(path), state=state)
