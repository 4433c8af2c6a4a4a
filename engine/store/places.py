"""Decide where an image goes and whether it may go there."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from engine.errors import InvalidArgumentError, PathNotAllowedError, StorageError, TargetExistsError

IMAGE_NAME: Final = "memory.save"
XML_NAME: Final = "domain.xml"
MANIFEST_NAME: Final = "manifest.json"
#: Beside a file made by `save --to FILE`.
MANIFEST_SUFFIX: Final = ".manifest.json"
#: Behind the manifest's name: the manifest of the image that is about to take the name.
NEXT_SUFFIX: Final = ".next"
STAGING_NAME: Final = ".staging"
#: Before the job's id: the staging directory of a file, beside it.
FILE_STAGING_PREFIX: Final = ".fleetsave-"
#: In place of the job's id: what replaces an image that stays whole until it is replaced.
REPLACEMENT_PREFIX: Final = "define-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one image is written and where it will be found; both on one file system."""

    #: The image file's final name, or the restore point's directory.
    final: Path
    #: Directory that only this job writes to.
    staging: Path
    #: True for a restore point: the whole staging directory becomes `final`.
    is_point: bool

    @property
    def image(self) -> Path:
        """The image's final path."""
        return self.final / IMAGE_NAME if self.is_point else self.final

    @property
    def manifest(self) -> Path:
        """The manifest's final path."""
        return manifest_of(self.image)


def manifest_of(image: Path) -> Path:
    """Return where the manifest of an image lies."""
    if image.name == IMAGE_NAME:
        return image.with_name(MANIFEST_NAME)
    return image.with_name(image.name + MANIFEST_SUFFIX)


def next_manifest_of(image: Path) -> Path:
    """Return where the manifest lies while an image is being replaced (docs/decisions/0007)."""
    manifest = manifest_of(image)
    return manifest.with_name(manifest.name + NEXT_SUFFIX)


def plan_file(to: Path, job_id: str) -> Place:
    """Return the place of `save --to FILE`: staged in a hidden directory beside it."""
    return Place(final=to, staging=to.parent / f"{FILE_STAGING_PREFIX}{job_id}", is_point=False)


def plan_point(store: Path, domain_uuid: str, job_id: str, now: datetime) -> Place:
    """Return the place of a new restore point: `<store>/<domain uuid>/<UTC time>-<job id>/`."""
    name = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{job_id}"
    return Place(final=store / domain_uuid / name, staging=store / STAGING_NAME / job_id, is_point=True)


def check_allowed(path: Path, roots: Sequence[str] | None) -> None:
    """Refuse a path outside the host's allowed directories, links followed.

    Raises:
        PathNotAllowedError: it lies elsewhere.
    """
    if roots is None:
        return
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise PathNotAllowedError(
            str(path),
            "outside the directories this host allows",
            " or ".join(roots) or "none is configured",
            "choose a path below one of them, or add its directory to allowed_roots",
        )


def check_target(to: Path, job_id: str) -> None:
    """Refuse a target that cannot become an image file.

    Raises:
        InvalidArgumentError: it is a directory, or its name is too long.
        TargetExistsError: image or manifest of that name exist.
        StorageError: its directory is missing, none, or not writable.
    """
    # Not Path.is_dir(): it raises where one may not look, which check_directory() says better.
    if os.path.isdir(to):  # noqa: PTH112
        raise InvalidArgumentError(str(to), "a directory", "a file name", "add a name, such as guest.save")
    for taken in (to, manifest_of(to)):
        if os.path.lexists(taken):
            raise TargetExistsError(
                str(taken), "exists already", "a new name", "fleetsave overwrites nothing"
            )
    check_directory(to.parent)
    _check_name_length(to, job_id)


def _check_name_length(to: Path, job_id: str) -> None:
    """Refuse a name that image and manifest could not get once the guest is gone."""
    longest = manifest_of(spare_of(to, job_id)).name
    limit = os.pathconf(to.parent, "PC_NAME_MAX")
    if len(os.fsencode(longest)) > limit:
        spare = limit - len(os.fsencode(longest)) + len(os.fsencode(to.name))
        raise InvalidArgumentError(
            str(to), f"a name of {len(os.fsencode(to.name))} bytes", f"at most {spare}", "shorten it"
        )


def spare_of(final: Path, job_id: str) -> Path:
    """Return the name that an image gets when its own was taken while it was written."""
    return final.with_name(f"{final.name}.{job_id}")


def check_directory(directory: Path) -> None:
    """Refuse a directory that nothing can be written to.

    Raises:
        StorageError: missing, no directory, or not writable.
    """
    try:
        mode = directory.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(
            str(directory), "no such directory", "one that exists", f"mkdir -p {directory}"
        ) from error
    except OSError as error:
        raise StorageError(
            str(directory), error.strerror or str(error), "a directory this user may look into"
        ) from error
    if not stat.S_ISDIR(mode):
        raise StorageError(str(directory), "not a directory", "a directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StorageError(
            str(directory),
            f"not writable for user {os.geteuid()}",
            "write permission",
            "check its owner and mode",
        )


def check_store(store: Path) -> None:
    """Refuse a store that cannot take restore points; a missing one is made if its parent allows.

    Raises:
        StorageError: missing with a parent that is missing too, no directory, or not writable.
    """
    if not os.path.exists(store):  # noqa: PTH110 - as above
        check_directory(store.parent)
        try:
            store.mkdir(mode=0o700)
        except OSError as error:
            raise StorageError(str(store), f"cannot be made: {error.strerror}", "a store") from error
    check_directory(store)


def find_image(path: Path) -> Path:
    """Return the image file of a path given to restore: a file, or a restore point's directory.

    Raises:
        StorageError: nothing there, or nothing readable.
    """
    image = path / IMAGE_NAME if os.path.isdir(path) else path  # noqa: PTH112 - as above
    try:
        # To open a FIFO would wait for whoever writes to it.
        if not stat.S_ISREG(image.stat().st_mode):
            raise StorageError(str(image), "not a file", "a save image")
        with image.open("rb"):
            return image
    except OSError as error:
        raise StorageError(
            str(image),
            f"{error.strerror}",
            "a readable save image",
            "fleetsave points list shows what there is",
        ) from error
