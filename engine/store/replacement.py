"""Put an image in the place of another under the same name, so that a reader finds one of the two, whole.

Image and manifest are two files, and no file system renames two at once. So the new
manifest comes first, under a name of its own ("next"); then the image; then the manifest's
own name. In between a reader finds both manifests, and the one that fits the image's first
part is the image's (engine.store.images.find_manifest; docs/decisions/0007).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from engine.directio.target import DirectFile, storage_error
from engine.errors import DomainBusyError, EngineError, StorageError
from engine.store.images import find_manifest, read_head, read_next_manifest
from engine.store.places import (
    FILE_STAGING_PREFIX,
    IMAGE_NAME,
    REPLACEMENT_PREFIX,
    STAGING_NAME,
    XML_NAME,
    manifest_of,
    next_manifest_of,
)
from engine.store.staging import lock_directory, sync_directory

_LOCK_ATTEMPTS: Final = 5
_FINISH: Final = "the new XML is in place; run the same command again to finish the rest"


class Replacement:
    """One image about to take another's place; its staging directory keeps everybody else from doing so.

    The directory's name follows from the image's: whoever holds its lock is the only one,
    and what a dead one left there is found. Recovery sweeps it like any other.
    """

    def __init__(self, image: Path) -> None:
        self.image = image
        self._staging = _staging_of(image)
        #: Where the new image is to be written.
        self.staged = self._staging / IMAGE_NAME
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Take the image, remove what a dead process left.

        Raises:
            DomainBusyError: another process replaces it right now.
            StorageError: the staging directory cannot be made.
        """
        try:
            for _ in range(_LOCK_ATTEMPTS):
                if self._take():
                    for left in self._staging.iterdir():
                        left.unlink()
                    return self
                self._release()
        except OSError as error:
            self._release()
            raise storage_error(str(self._staging), error, "making the staging directory") from error
        raise DomainBusyError(str(self.image), "replaced by others again and again", "", "try again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The image was not replaced, so the announced manifest is nobody's; readers see that, too.
        with suppress(OSError):
            if error is not None and self.staged.exists():
                next_manifest_of(self.image).unlink(missing_ok=True)
        # What cannot be removed is removed by the next definition, or by recovery: no reason to fail now.
        with suppress(OSError):
            shutil.rmtree(self._staging, ignore_errors=True)
        self._release()

    def settle(self, file: DirectFile) -> None:
        """Finish what a dead process had begun, or forget it if it had not come to replacing the image.

        Args:
            file: the image, open for reading.

        Raises:
            EngineError: it could not be finished; readers are served either way.
        """
        if not os.path.lexists(next_manifest_of(self.image)):
            return
        following = read_next_manifest(self.image)
        try:
            if following is not None and find_manifest(file, os.fstat(file.fd).st_size) == following:
                self.complete(read_head(file)[0].domain_xml)
            else:
                next_manifest_of(self.image).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(str(next_manifest_of(self.image)), error, "removing") from error

    def announce(self, manifest: str) -> None:
        """Lay the new image's manifest beside the present one, durably.

        Raises:
            StorageError, NoSpaceError: it could not be written; nothing has changed for a reader.
        """
        self._write(next_manifest_of(self.image), manifest, like=manifest_of(self.image))

    def replace(self) -> None:
        """Give the new image the name; return when that is durable.

        Raises:
            StorageError: before it happened nothing has changed; afterwards the error says so.
        """
        try:
            self.staged.rename(self.image)
        except OSError as error:
            raise storage_error(str(self.image), error, "replacing") from error
        try:
            sync_directory(self.image.parent)
        except OSError as error:
            found = storage_error(str(self.image.parent), error, "syncing")
            raise StorageError(found.where, found.found, "", _FINISH) from error

    def complete(self, domain_xml: str) -> None:
        """Let everything beside the image say what the image says.

        Raises:
            StorageError: it could not be written; the image is the new one, and readers know.
        """
        copy = self.image.with_name(XML_NAME)
        announced = next_manifest_of(self.image)
        try:
            if self.image.name == IMAGE_NAME and copy.exists():
                self._write(copy, domain_xml, like=copy)
            if announced.exists():
                announced.rename(manifest_of(self.image))
                sync_directory(self.image.parent)
        except OSError as error:
            found = storage_error(str(announced), error, "replacing the manifest")
            raise StorageError(found.where, found.found, "", _FINISH) from error
        except EngineError as error:
            raise StorageError(error.where, error.found, error.wanted, _FINISH) from error

    def _take(self) -> bool:
        """Make the staging directory and lock it; False when whoever had it has just removed it."""
        with suppress(FileExistsError):
            self._staging.mkdir(mode=0o700)
        try:
            self._lock = lock_directory(self._staging)
            if self._lock is None:
                raise DomainBusyError(
                    str(self.image), "another process replaces it right now", "", "wait for it"
                )
            return os.path.samestat(os.fstat(self._lock), self._staging.stat())
        except FileNotFoundError:
            return False

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, path: Path, text: str, *, like: Path) -> None:
        """Write one small file whole, synced, by rename, for the owner of another."""
        new = self._staging / path.name
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                keep_owner(fd, like.stat())
                os.fsync(fd)
            new.rename(path)
            sync_directory(path.parent)
        except OSError as error:
            raise storage_error(str(path), error, "writing") from error


def keep_owner(fd: int, like: os.stat_result) -> None:
    """Give an open file the owner, group and mode of another.

    Raises:
        OSError: this process may not; EPERM.
    """
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(fd, like.st_uid, like.st_gid)
    os.fchmod(fd, like.st_mode & 0o777)


def _staging_of(image: Path) -> Path:
    """Return the one directory that an image's successor is written to, on the same file system."""
    shared = image.parent.parent.parent / STAGING_NAME
    if image.name == IMAGE_NAME and shared.is_dir():
        return shared / f"{REPLACEMENT_PREFIX}{image.parent.name}"
    # Not the name itself: with a prefix it might be too long for the file system.
    name = hashlib.sha256(os.fsencode(image.name)).hexdigest()[:16]
    return image.with_name(f"{FILE_STAGING_PREFIX}{REPLACEMENT_PREFIX}{name}")
