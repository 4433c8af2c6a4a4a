"""Bring restore points into the catalog from the manifests that lie beside their images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from engine.errors import ImageFormatError
from engine.image.manifest import MANIFEST_SIZE_MAX, Manifest, parse_manifest
from engine.store.places import IMAGE_NAME, MANIFEST_NAME, MANIFEST_SUFFIX
from tasks.catalog import models
from tasks.catalog.connection import Catalog
from tasks.catalog.points import POINT_MAKING, REQUIREMENTS_SIZE_MAX, bounded_object, parse_moment
from tasks.catalog.upsert import insert_missing

#: Points in one transaction.
_BATCH_COUNT: Final = 200
#: Levels of directories; a store has two.
_DEPTH_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPoint:
    """One image with its manifest, as it lies in a store."""

    #: The image file, or the restore point's directory.
    path: Path
    manifest_path: Path
    manifest: Manifest
    taken_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Something in a store that is no restore point, with the reason."""

    path: Path
    reason: str


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild has found."""

    added: int = 0
    known: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)


def find_points(store: Path, *, depth: int = _DEPTH_MAX) -> Iterator[FoundPoint | Unreadable]:
    """Yield every image with a manifest of ours below the directory, and every one that cannot be read.

    A restore point is a directory with `manifest.json`, a single image has `FILE.manifest.json` beside it.
    What is in hidden directories (staging) is nobody's yet. Core dumps are passed over: no guest can be
    restored from one.

    Args:
        store: a directory.
        depth: levels of directories to look into.
    """
    try:
        entries = sorted(store.iterdir())
    except OSError as error:
        yield Unreadable(path=store, reason=error.strerror or str(error))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.name.endswith(MANIFEST_SUFFIX):
            yield from _read_point(entry.with_name(entry.name.removesuffix(MANIFEST_SUFFIX)), entry)
        elif entry.is_dir() and not entry.is_symlink():
            manifest = entry / MANIFEST_NAME
            if manifest.exists() or (entry / IMAGE_NAME).exists():
                yield from _read_point(entry, manifest)
            elif depth > 1:
                yield from find_points(entry, depth=depth - 1)
            else:
                yield Unreadable(path=entry, reason=f"more than {_DEPTH_MAX} directories deep")


def rebuild(catalog: Catalog, host: str, found: Iterable[FoundPoint | Unreadable]) -> Rebuilt:
    """Add the points that the catalog does not know; a second time there are none.

    Args:
        catalog: the catalog.
        host: whose store it is.
        found: of `find_points`.
    """
    outcome = Rebuilt()
    batch: list[FoundPoint] = []
    for one in found:
        if isinstance(one, Unreadable):
            outcome.unreadable.append(one)
            continue
        batch.append(one)
        if len(batch) == _BATCH_COUNT:
            _add(catalog, host, batch, outcome)
            batch = []
    _add(catalog, host, batch, outcome)
    return outcome


def _read_point(path: Path, manifest_path: Path) -> Iterator[FoundPoint | Unreadable]:
    """Read one manifest, and look whether its image is there in its whole length."""
    try:
        point = _open_point(path, manifest_path)
    except ImageFormatError as error:
        yield Unreadable(path=manifest_path, reason=error.found)
    except UnicodeDecodeError:
        yield Unreadable(path=manifest_path, reason="no UTF-8 text")
    except OSError as error:
        yield Unreadable(path=Path(error.filename or path), reason=error.strerror or str(error))
    else:
        if point.manifest.op in POINT_MAKING:
            yield point


def _open_point(path: Path, manifest_path: Path) -> FoundPoint:
    """Return the point; raise what is wrong with it."""
    image = path / IMAGE_NAME if manifest_path.parent == path else path
    with manifest_path.open(encoding="utf-8") as file:
        text = file.read(MANIFEST_SIZE_MAX + 1)
    manifest = parse_manifest(text, path=str(manifest_path))
    taken_at = parse_moment(manifest.taken_at)
    if taken_at is None:
        raise ImageFormatError(
            str(manifest_path), f"taken_at is {manifest.taken_at!r}", "a time with its zone"
        )
    size = image.stat().st_size
    if size != manifest.image_bytes:
        found = f"the image has {size} bytes, its manifest says {manifest.image_bytes}"
        raise ImageFormatError(str(manifest_path), found)
    return FoundPoint(path=path, manifest_path=manifest_path, manifest=manifest, taken_at=taken_at)


def _add(catalog: Catalog, host: str, points: list[FoundPoint], outcome: Rebuilt) -> None:
    """Add some points in one transaction."""
    if not points:
        return
    with catalog.write() as session:
        for point in points:
            manifest = point.manifest
            is_known_job = session.get(models.Job, manifest.job_id) is not None
            is_new = insert_missing(
                session,
                models.RestorePoint,
                host=host,
                path=str(point.path),
                job_id=manifest.job_id if is_known_job else None,
                domain_name=manifest.domain,
                domain_uuid=manifest.domain_uuid,
                manifest_path=str(point.manifest_path),
                size_bytes=manifest.image_bytes,
                checksum_algorithm=manifest.checksum.algorithm,
                checksum_value=manifest.checksum.value,
                taken_at=point.taken_at,
                requirements=bounded_object(manifest.requirements, REQUIREMENTS_SIZE_MAX),
            )
            outcome.added += is_new
            outcome.known += not is_new
