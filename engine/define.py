"""Give a save image another domain XML or another state, without ever leaving less than a whole image.

libvirt rewrites the head in place and syncs nothing: a crash leaves an image without a
valid head. Here a whole new image is made beside the old one, read back from the disk, and
takes its name in one rename (docs/decisions/0007).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from engine.cancel import CancelToken
from engine.checksum import Checksum
from engine.directio.buffers import BufferRing
from engine.directio.checksum import StreamChecksum
from engine.directio.reader import read_stream
from engine.directio.target import DirectFile, open_direct, storage_error
from engine.domxml.changes import Change
from engine.domxml.document import identity_of, parse_domain_xml
from engine.domxml.facts import has_hidden_secrets, machine_facts
from engine.domxml.requirements import describe_requirements, known_host_cpu
from engine.editcopy import check_written, write_edited
from engine.errors import AbiError, DomainXmlError, InvalidArgumentError, TryAgainError
from engine.examine import locate_image, name_errors
from engine.flags import BypassPolicy, SaveFlags
from engine.image.edit import EditedHead, edit_head
from engine.image.manifest import Manifest
from engine.newxml import XmlPlan, XmlWish, plan_xml
from engine.observer import Observer, SilentObserver
from engine.preflight import check_flags
from engine.steps import Step
from engine.store.images import OpenImage, open_image
from engine.store.replacement import Replacement, keep_owner
from engine.verify import compare

#: Of a definition, in order. From PUBLISHED on the image is the new one.
DEFINE_STEPS: Final = (
    Step.PREFLIGHT, Step.STAGING, Step.DRAINED, Step.SYNCED, Step.VERIFIED, Step.PREPARED, Step.PUBLISHED,
    Step.DONE,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What became of an image that was given another XML or state."""

    #: The image file, links followed.
    path: str
    #: False where the image said all this already; nothing was written then.
    is_changed: bool
    was_running: bool
    #: Length of the image now.
    bytes: int
    #: Bytes by which the memory moved because the XML needed the room.
    moved_bytes: int
    #: The memory was not copied: old and new image shared its blocks.
    has_shared_blocks: bool
    #: None where no manifest lies beside the image.
    checksum: Checksum | None
    #: What the XML says otherwise; never a password.
    dxml_changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object, without the checksums of parts."""
        document = asdict(self)
        if self.checksum is not None:
            document["checksum"] = {"algorithm": self.checksum.algorithm, "value": self.checksum.value}
        return document


def image_define(
    path: Path | str,
    dxml: str | None = None,
    flags: int = 0,
    *,
    rules: str | None = None,
    bypass_cache: BypassPolicy | str = BypassPolicy.PREFER,
    observer: Observer | None = None,
    cancel: CancelToken | None = None,
) -> Definition:
    """Replace the domain XML of a save image, its state, or both (virDomainSaveImageDefineXML).

    At every instant, power cuts included, the name belongs to the old image or to the new
    one, whole, with its manifest. An image whose checksum does not match is left alone.

    Args:
        path: a save image, or the directory of a restore point.
        dxml: XML of the same domain, passwords included; None keeps what there is.
        flags: RUNNING or PAUSED, what the guest is after a restore; neither keeps it.
        rules: TOML that makes the XML from the image's own.
        bypass_cache: past the page cache or not.
        observer: told of DEFINE_STEPS and progress.
        cancel: stops it before the image is replaced.

    Raises:
        InvalidArgumentError: nothing to change, or flags that exclude each other.
        DomainXmlError, AbiError: the XML is none, lacks its passwords, is another domain's, or changes
            what the guest sees; or the rules are none, or match nothing.
        NotSupportedError: it does not fit, and the memory of a sparse image cannot move.
        ImageFormatError, ImageIncompleteError, ChecksumError: the image is none, or damaged.
        DomainBusyError: another process replaces the image.
        StorageError, NoSpaceError: it could not be written. The old image is in its place
            unless the error says that the new one is.
    """
    given = SaveFlags(flags)
    wish = XmlWish(dxml=dxml, rules=rules)
    _check_arguments(wish, given)
    image = locate_image(path)
    observer, cancel = observer or SilentObserver(), cancel or CancelToken()
    policy = BypassPolicy.REQUIRE if SaveFlags.BYPASS_CACHE in given else BypassPolicy(bypass_cache)
    # The lock first: what is looked at now must not be replaced meanwhile.
    with name_errors(image), Replacement(image) as replacement:
        old = open_image(image, policy)
        try:
            replacement.settle(old.file)
            xml = _plan_xml(old, wish)
            edited = _edit(old, xml.dxml, given)
            changes = xml.changes
            observer.step(Step.PREFLIGHT)
            if edited.head == old.head:
                return _describe(old, edited, changes, old.manifest)
            return _Define(replacement, old, edited, changes, observer=observer, cancel=cancel).run()
        finally:
            old.file.close()


def _check_arguments(wish: XmlWish, flags: SaveFlags) -> None:
    check_flags(flags)
    if flags & ~(SaveFlags.BYPASS_CACHE | SaveFlags.RUNNING | SaveFlags.PAUSED):
        raise InvalidArgumentError("flags", f"unsupported: {flags!r}", "BYPASS_CACHE, RUNNING or PAUSED")
    if wish == XmlWish() and not flags & (SaveFlags.RUNNING | SaveFlags.PAUSED):
        raise InvalidArgumentError("image", "nothing to change", "new XML, rules, --running or --paused")


def _plan_xml(old: OpenImage, wish: XmlWish) -> XmlPlan:
    """Return the XML that is wanted; refuse what the image cannot be restored with."""
    where = "new domain XML"
    if wish.dxml is not None:
        root = parse_domain_xml(wish.dxml, where=where)
        if has_hidden_secrets(root):
            raise DomainXmlError(
                where, "its passwords are hidden", "the passwords", "fleetsave image dumpxml --security-info"
            )
        if identity_of(root, where=where).uuid is None:
            raise AbiError(
                where, "no <uuid>", "that of the image", "libvirt would take it for another domain"
            )
    return plan_xml(old.head.domain_xml, wish, where=str(old.file.path), is_image=True)


def _edit(old: OpenImage, dxml: str | None, flags: SaveFlags) -> EditedHead:
    """Return the image's new front."""
    was_running = None
    if flags & (SaveFlags.RUNNING | SaveFlags.PAUSED):
        was_running = SaveFlags.RUNNING in flags
    return edit_head(old.head, path=str(old.file.path), domain_xml=dxml, was_running=was_running)


def _describe(
    old: OpenImage,
    edited: EditedHead,
    changes: tuple[Change, ...],
    manifest: Manifest | None,
    *,
    is_changed: bool = False,
    has_shared_blocks: bool = False,
) -> Definition:
    return Definition(
        path=str(old.file.path),
        is_changed=is_changed,
        was_running=edited.head.header.was_running,
        bytes=old.size + edited.shift,
        moved_bytes=edited.shift,
        has_shared_blocks=has_shared_blocks,
        checksum=None if manifest is None else manifest.checksum,
        dxml_changes=changes,
    )


class _Define:
    """One image that is made anew beside the old one."""

    def __init__(
        self,
        replacement: Replacement,
        old: OpenImage,
        edited: EditedHead,
        changes: tuple[Change, ...],
        *,
        observer: Observer,
        cancel: CancelToken,
    ) -> None:
        self._replacement = replacement
        self._old = old
        self._edited = edited
        self._changes = changes
        self._observer = observer
        self._cancel = cancel
        self._size = old.size + edited.shift
        self._has_shared_blocks = False
        self._looked_at = os.fstat(old.file.fd)

    def run(self) -> Definition:
        """Make it, look at it, let it take the name."""
        replacement, policy = self._replacement, self._old.file.policy
        file = open_direct(replacement.staged, os.O_RDWR | os.O_CREAT | os.O_EXCL, policy)
        try:
            self._reach(Step.STAGING)
            manifest = self._write(file)
        finally:
            file.close()
        if manifest is not None:
            replacement.announce(manifest.to_json())
        self._reach(Step.PREPARED)
        self._check_unchanged()
        replacement.replace()
        self._observer.step(Step.PUBLISHED)
        replacement.complete(self._edited.head.domain_xml)
        self._observer.step(Step.DONE)
        return _describe(
            self._old,
            self._edited,
            self._changes,
            manifest,
            is_changed=True,
            has_shared_blocks=self._has_shared_blocks,
        )

    def _reach(self, step: Step) -> None:
        self._observer.step(step)
        self._cancel.raise_if_cancelled(str(self._old.file.path))

    def _write(self, file: DirectFile) -> Manifest | None:
        """Make the image durable in staging, look at it from the disk; return its manifest, if it has one."""
        try:
            self._has_shared_blocks = write_edited(self._old, self._edited, file, on_progress=self._copied)
            keep_owner(file.fd, self._looked_at)
        except OSError as error:
            raise storage_error(str(self._old.file.path), error, "making the new image") from error
        self._reach(Step.DRAINED)
        file.truncate(self._size)
        file.sync()
        self._reach(Step.SYNCED)
        check_written(file, self._edited)
        manifest = None if self._old.manifest is None else self._renew(self._old.manifest, file)
        file.check_bypassed()
        self._reach(Step.VERIFIED)
        return manifest

    def _copied(self, done_bytes: int) -> None:
        self._cancel.raise_if_cancelled(str(self._old.file.path))
        self._observer.progress(done_bytes, self._old.size)

    def _renew(self, manifest: Manifest, file: DirectFile) -> Manifest:
        """Return the new image's manifest; refuse if the memory is not what it was when it was saved.

        Otherwise damage would get a checksum that fits.
        """
        before, at = StreamChecksum(), 0
        before.update(self._old.first_bytes[: self._old.head.header.stream_offset])

        def take(data: memoryview) -> None:
            nonlocal at
            before.update(data[max(0, len(self._edited.data) - at) :])
            at += len(data)

        checksum = read_stream(
            file,
            self._size,
            BufferRing(),
            expected=None,
            deliver=take,
            before_last=lambda: None,
            on_progress=lambda done: self._observer.progress(done, self._size),
            cancel=self._cancel,
        )
        compare(before.finish(), manifest.checksum, path=str(self._old.file.path), size=self._old.size)
        facts = machine_facts(parse_domain_xml(self._edited.head.domain_xml, where="new domain XML"))
        return replace(
            manifest,
            was_running=self._edited.head.header.was_running,
            machine=facts.machine,
            cpu_model=facts.cpu,
            requirements=describe_requirements(
                self._edited.head.domain_xml,
                self._edited.head.cookie,
                where="new domain XML",
                saved_by=manifest.hypervisor_version,
                host_cpu=known_host_cpu(manifest.requirements),
            ),
            image_bytes=self._size,
            checksum=checksum,
            dxml_changes=[*manifest.dxml_changes, *(asdict(change) for change in self._changes)],
        )

    def _check_unchanged(self) -> None:
        """Refuse to replace an image that somebody has written to since it was opened."""
        now = os.fstat(self._old.file.fd)
        if (now.st_mtime_ns, now.st_size) != (self._looked_at.st_mtime_ns, self._looked_at.st_size):
            raise TryAgainError(
                str(self._old.file.path), "changed while it was copied", "", "see who writes to it, try again"
            )
