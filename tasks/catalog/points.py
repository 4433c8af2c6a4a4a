"""Remember restore points: what a host says that it made, what a manifest says that there is."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from tasks.catalog import models
from tasks.catalog.upsert import insert_missing

#: Operations whose image a guest can be restored from.
POINT_MAKING: Final = frozenset({"save", "checkpoint"})
#: Bytes of JSON that are kept of what a point needs of a host.
REQUIREMENTS_SIZE_MAX: Final = 64 * 1024


def remember_point(
    session: Session, job: models.Job, host: str, result: dict[str, Any], at: datetime
) -> bool:
    """Add the restore point that a successful job made; tell whether there was one to add.

    Args:
        session: of `Catalog.write`.
        job: the job.
        host: where it made it.
        result: the engine's result.
        at: when the host said so; taken where the result has no time of its own.
    """
    path, size = result.get("path"), result.get("bytes")
    if job.op not in POINT_MAKING or not isinstance(path, str) or type(size) is not int:
        return False
    checksum = result.get("checksum")
    sums = checksum if isinstance(checksum, dict) else {}
    return insert_missing(
        session,
        models.RestorePoint,
        host=host,
        path=path,
        job_id=job.id,
        domain_name=text_or_none(result.get("domain")) or job.domain_name,
        domain_uuid=text_or_none(result.get("domain_uuid")) or job.domain_uuid,
        manifest_path=f"{path}.manifest.json" if job.params.get("to") else f"{path}/manifest.json",
        size_bytes=size,
        checksum_algorithm=text_or_none(sums.get("algorithm")),
        checksum_value=text_or_none(sums.get("value")),
        taken_at=parse_moment(result.get("taken_at")) or at,
        requirements=bounded_object(result.get("requirements"), REQUIREMENTS_SIZE_MAX),
    )


def bounded_object(value: object, size_max: int) -> dict[str, Any] | None:
    """Return an object that says something in at most so many bytes of JSON."""
    if not isinstance(value, dict) or not value:
        return None
    return value if len(json.dumps(value)) <= size_max else None


def parse_moment(value: object) -> datetime | None:
    """Return the aware moment that the text means, if it means one."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def text_or_none(value: object) -> str | None:
    """Return the value if it is text."""
    return value if isinstance(value, str) else None
