"""Find the image that a job has published, whoever published it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.describe import recall_outcome
from engine.errors import ImageFormatError
from engine.image.manifest import parse_manifest
from engine.outcome import Outcome
from engine.store.places import IMAGE_NAME, manifest_of, spare_of

#: What became of the guest, by operation.
_STATES: Final = {"save": "saved", "checkpoint": "running"}


def find_published(job_id: str, *, to: Path | None, store: Path | None) -> Outcome | None:
    """Return the outcome of a job whose image is visible and whole, from the manifest beside it.

    Args:
        job_id: of the job.
        to: the file that it was to make; None = a restore point.
        store: where restore points are.

    Returns: None where there is no such image, or its manifest is another job's.
    """
    for path, image in _candidates(job_id, to=to, store=store):
        try:
            manifest = parse_manifest(manifest_of(image).read_text(), path=str(manifest_of(image)))
            is_whole = image.stat().st_size == manifest.image_bytes
        except (OSError, UnicodeDecodeError, ImageFormatError):
            continue
        if is_whole and manifest.job_id == job_id:
            return recall_outcome(manifest, str(path), state=_STATES.get(manifest.op, ""))
    return None


def _candidates(job_id: str, *, to: Path | None, store: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield each path that the job may have published, with the image there."""
    if to is not None:
        # The second is where it goes when the name was taken meanwhile.
        for path in (to, spare_of(to, job_id)):
            yield path, path
    elif store is not None:
        for path in store.glob(f"*/*-{job_id}"):
            yield path, path / IMAGE_NAME
