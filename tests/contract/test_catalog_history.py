"""Forget old history, find lost restore points again."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from engine.checksum import PART_SIZE, Checksum
from engine.image.manifest import Manifest
from tasks.catalog import Catalog, models, queries
from tasks.catalog.prune import Pruned, count_prunable, prune
from tasks.catalog.rebuild import FoundPoint, Rebuilt, Unreadable, find_points, rebuild
from tasks.host_event import EventKind
from tasks.states import FINAL, JobState
from tests.contract.catalog_scene import T0, add_job, apply, at, event


def count(catalog: Catalog, table: type[models.Base]) -> int:
    """Return how many rows a table has."""
    with catalog.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def add_ended(catalog: Catalog, job_id: str, seconds: int, state: str = "failed") -> None:
    """Add a job that ended then, with its events and its attempt."""
    add_job(catalog, job_id, target=job_id)
    result = {"path": job_id, "bytes": 1}
    apply(
        catalog,
        event(1, EventKind.STATE, {"state": "running", "reason": None}, job_id=job_id),
        event(
            2,
            EventKind.STATE,
            {"state": state, "reason": "x", "result": result},
            job_id=job_id,
        ),
    )
    with catalog.write() as session:
        job = session.get(models.Job, job_id)
        assert job is not None
        job.finished_at = at(seconds)


def test_old_jobs_are_forgotten_with_all_that_was_said(catalog: Catalog) -> None:
    """Counted first, then in batches; younger ones stay."""
    for number in range(7):
        add_ended(catalog, f"old-{number}", number)
    add_ended(catalog, "young", 100)
    expected = Pruned(jobs=7, attempts=7, events=14)
    assert count_prunable(catalog, before=at(100)) == expected
    assert count(catalog, models.Job) == 8
    assert prune(catalog, before=at(100), batch_count=3) == expected
    assert [job.job_id for job in queries.list_jobs(catalog)] == ["young"]
    assert (count(catalog, models.Attempt), count(catalog, models.JobEvent)) == (1, 2)
    assert prune(catalog, before=at(100)) == Pruned()


@pytest.mark.parametrize("state", sorted(frozenset(JobState) - FINAL))
def test_unfinished_job_is_never_forgotten(catalog: Catalog, state: str) -> None:
    """However old, whatever stands in its columns."""
    add_job(catalog, state=state, finished_at=T0)
    assert count_prunable(catalog, before=at(1e6)) == Pruned()
    assert prune(catalog, before=at(1e6)) == Pruned()
    assert count(catalog, models.Job) == 1


def test_restore_point_outlives_its_job(catalog: Catalog) -> None:
    """It forgets which job made it, and nothing else."""
    add_ended(catalog, "old", 0, state="succeeded")
    [before] = queries.list_restore_points(catalog)
    assert before.job_id == "old"
    prune(catalog, before=at(1))
    [point] = queries.list_restore_points(catalog)
    assert (point.job_id, point.path, point.size_bytes) == (None, before.path, before.size_bytes)


def manifest(**changes: Any) -> dict[str, Any]:
    """Return the document of a good manifest."""
    values: dict[str, Any] = {
        "job_id": "j1", "op": "save", "domain": "web-1", "domain_uuid": "u-1", "host": "alpha",
        "taken_at": "2026-01-01T00:00:00+00:00", "fleetsave_version": "1", "libvirt_version": "1",
        "hypervisor_version": "1", "machine": "q35", "cpu_model": "host", "was_running": True,
        "image_bytes": 3,
        "checksum": Checksum(algorithm="blake3", value="ab", part_size=PART_SIZE, parts=()),
        "guest_paused_seconds": 0.1, "duration_seconds": 1.0, "throughput_bytes_per_second": 3.0,
        "data_path": "stream", "bypass_cache": {},
    }  # fmt: skip
    document: dict[str, Any] = json.loads(Manifest(**values).to_json())
    return document | changes


def write_point(store: Path, name: str, **changes: Any) -> Path:
    """Write a restore point of three bytes."""
    folder = store / "u-1" / name
    folder.mkdir(parents=True)
    (folder / "memory.save").write_bytes(b"abc")
    (folder / "manifest.json").write_text(json.dumps(manifest(**changes)))
    return folder


def test_restore_points_come_back_from_their_manifests(catalog: Catalog, tmp_path: Path) -> None:
    """Points of a store and single images; once, however often."""
    add_job(catalog)
    point = write_point(tmp_path, "20260101T000000Z-j1")
    image = tmp_path / "web.save"
    image.write_bytes(b"abc")
    (tmp_path / "web.save.manifest.json").write_text(json.dumps(manifest(job_id="gone", op="checkpoint")))
    write_point(tmp_path, ".staged")
    (tmp_path / "dump.manifest.json").write_text(json.dumps(manifest(op="dump")))
    (tmp_path / "dump").write_bytes(b"abc")
    assert rebuild(catalog, "alpha", find_points(tmp_path)) == Rebuilt(added=2)
    assert rebuild(catalog, "alpha", find_points(tmp_path)) == Rebuilt(known=2)
    found = {view.path: view for view in queries.list_restore_points(catalog)}
    assert found.keys() == {str(point), str(image)}
    one = found[str(point)]
    assert (one.host, one.domain_name, one.domain_uuid, one.job_id) == ("alpha", "web-1", "u-1", "j1")
    assert (one.size_bytes, one.checksum_value, one.taken_at) == (3, "ab", T0)
    assert one.manifest_path == str(point / "manifest.json")
    # The catalog does not know the job of the other any more.
    assert found[str(image)].job_id is None
    assert found[str(image)].manifest_path == f"{image}.manifest.json"


def test_point_that_a_job_reported_stays_as_it_was_reported(catalog: Catalog, tmp_path: Path) -> None:
    """Rebuilding adds what is missing and changes nothing."""
    point = write_point(tmp_path, "p")
    with catalog.write() as session:
        session.add(
            models.RestorePoint(host="alpha", path=str(point), size_bytes=7, taken_at=T0 + timedelta(days=1))
        )
    assert rebuild(catalog, "alpha", find_points(tmp_path)) == Rebuilt(known=1)
    assert queries.list_restore_points(catalog)[0].size_bytes == 7


def test_what_cannot_be_read_is_named_and_does_not_stop_the_rest(catalog: Catalog, tmp_path: Path) -> None:
    """Each with the file and the reason."""
    write_point(tmp_path, "good")
    (write_point(tmp_path, "text") / "manifest.json").write_text("no json")
    (write_point(tmp_path, "bytes") / "manifest.json").write_bytes(b"\xff\xfe")
    (write_point(tmp_path, "no-manifest") / "manifest.json").unlink()
    (write_point(tmp_path, "no-image") / "memory.save").unlink()
    write_point(tmp_path, "short", image_bytes=4)
    write_point(tmp_path, "when", taken_at="yesterday")
    write_point(tmp_path, "later", format=2)
    outcome = rebuild(catalog, "alpha", find_points(tmp_path))
    assert (outcome.added, outcome.known) == (1, 0)
    reasons = {str(one.path.relative_to(tmp_path / "u-1")): one.reason for one in outcome.unreadable}
    assert reasons.keys() == {
        "text/manifest.json", "bytes/manifest.json", "no-manifest/manifest.json", "no-image/memory.save",
        "short/manifest.json", "when/manifest.json", "later/manifest.json",
    }  # fmt: skip
    assert reasons["no-image/memory.save"] == os.strerror(2)
    assert reasons["short/manifest.json"] == "the image has 3 bytes, its manifest says 4"
    assert reasons["later/manifest.json"] == "manifest format 2"


def test_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And one that is too deep to be one."""
    assert list(find_points(tmp_path / "none")) == [
        Unreadable(path=tmp_path / "none", reason="No such file or directory")
    ]
    (tmp_path / "/".join("abcdefgh")).mkdir(parents=True)
    [deep] = find_points(tmp_path)
    assert isinstance(deep, Unreadable)
    assert deep.reason == "more than 8 directories deep"
    point = write_point(tmp_path / "a", "p")
    assert [one.path for one in find_points(tmp_path) if isinstance(one, FoundPoint)] == [point]
