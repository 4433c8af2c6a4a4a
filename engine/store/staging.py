"""Write an image where no reader looks, then make it visible in one rename.

The record in the staging directory says how far it came. "writing": the guest cannot have
been lost, the directory may be thrown away. "prepared": the image is whole and durable,
and libvirt may have let the guest go: it may be the only copy of that guest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from engine.directio.syscalls import rename_exclusively
from engine.directio.target import storage_error
from engine.errors import NoSpaceError, StorageError
from engine.store.places import IMAGE_NAME, MANIFEST_NAME, XML_NAME, Place, manifest_of, spare_of
from engine.store.record import PREPARED, RECORD_NAME, WRITING, Record


class Staging:
    """One job's private directory on the target's file system."""

    def __init__(self, place: Place, record: Record) -> None:
        self._place = place
        self._record = record
        self._lock: int | None = None
        #: False once the directory turned out to be another job's, or another attempt's.
        self._is_ours = True
        self.image = place.staging / IMAGE_NAME
        #: The image is whole and durable, and its record says so.
        self.is_prepared = False

    def create(self) -> None:
        """Make the directory and its record, durably.

        Raises:
            StorageError, NoSpaceError: it could not be made. One that was there already stays,
                `discard` or not: it may hold the only copy of a guest.
        """
        staging = self._place.staging
        try:
            staging.parent.mkdir(mode=0o700, exist_ok=True)
            self._is_ours = False
            staging.mkdir(mode=0o700)
            self._is_ours = True
            self._lock = lock_directory(staging)
            # Its name has to outlive a power cut: from the commit on it may hold the only copy of a guest.
            sync_directory(staging.parent)
            if self._place.is_point:
                sync_directory(staging.parent.parent)
        except OSError as error:
            raise storage_error(str(staging), error, "making the staging directory") from error
        self._write_record(WRITING)

    def release(self) -> None:
        """Let go of the directory: from now on it belongs to nobody who lives."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def prepare(self, manifest: str, domain_xml: str) -> None:
        """Record durably that the image in staging is whole.

        Raises:
            StorageError, NoSpaceError: it could not be recorded; the image is not to be used.
        """
        if self._place.is_point:
            self._write(XML_NAME, domain_xml)
        self._write(MANIFEST_NAME, manifest)
        self._write_record(PREPARED)
        self.is_prepared = True

    def publish(self, manifest: str | None = None) -> Path:
        """Make the image visible under its final name; return that name.

        A publish that was interrupted may be called again. The manifest replaces the one
        of `prepare`, None keeps that one.

        Should the name have been taken meanwhile, the job's id is added to it: the guest
        is gone by now, so its image must not fail to appear.

        Raises:
            StorageError, NoSpaceError: the image is still in staging, whole.
        """
        # On a full disk the manifest of `prepare` stays: it lacks only what was measured since.
        if manifest is not None:
            with suppress(StorageError, NoSpaceError):
                self._write(MANIFEST_NAME, manifest)
        try:
            if self._place.is_point:
                return self._publish_point()
            return self._publish_file(self._place.final)
        except OSError as error:
            found = storage_error(str(self._place.final), error, "publishing")
            kept = self.image if self.image.exists() else self._place.image
            raise StorageError(
                found.where, found.found, "", f"the image is whole: {kept}; move it by hand"
            ) from error

    def _publish_point(self) -> Path:
        final = self._place.final
        final.parent.mkdir(mode=0o700, exist_ok=True)
        # Its name first: the image must not move into a directory that a power cut can take away.
        sync_directory(final.parent.parent)
        rename_exclusively(self._place.staging, final)
        sync_directory(final.parent)
        (final / RECORD_NAME).unlink()
        return final

    def _publish_file(self, final: Path) -> Path:
        staged_manifest = self._place.staging / MANIFEST_NAME
        try:
            # The manifest first: an image that is visible has its manifest.
            if staged_manifest.exists():
                rename_exclusively(staged_manifest, manifest_of(final))
                sync_directory(final.parent)
            rename_exclusively(self.image, final)
        except FileExistsError:
            spare = spare_of(final, self._record.job_id)
            # Under the final name our manifest would lie beside an image of somebody else.
            if not manifest_of(spare).exists():
                ours = staged_manifest if staged_manifest.exists() else manifest_of(final)
                rename_exclusively(ours, manifest_of(spare))
            rename_exclusively(self.image, spare)
            final = spare
        sync_directory(final.parent)
        self.discard()
        return final

    def discard(self) -> None:
        """Remove the directory and all in it, unless it was there before."""
        if self._is_ours:
            shutil.rmtree(self._place.staging, ignore_errors=True)

    def _write_record(self, state: str) -> None:
        self._write(RECORD_NAME, replace(self._record, state=state).to_json())

    def _write(self, name: str, text: str) -> None:
        """Write one small file whole, synced, by rename."""
        path, new = self._place.staging / name, self._place.staging / f"{name}.new"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
            sync_directory(self._place.staging)
        except OSError as error:
            raise storage_error(str(path), error, "writing") from error


def lock_directory(directory: Path) -> int | None:
    """Take a directory for this process, however long it lives; None when another has it.

    Returns: a descriptor to close when done.

    Raises:
        OSError: it cannot be opened.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def sync_directory(directory: Path) -> None:
    """Return when the names in the directory are on stable storage."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
