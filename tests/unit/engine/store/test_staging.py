from __future__ import annotations

import errno
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.errors import StorageError
from engine.store import staging as staging_module
from engine.store.places import Place, plan_file, plan_point
from engine.store.record import PREPARED, RECORD_NAME, WRITING, Record, parse_record
from engine.store.staging import Staging, lock_directory
from tests.fault.world import FaultyOs

UUID = "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"


def make_staging(place: Place) -> Staging:
    """Return a staging that was not begun."""
    record = Record(
        job_id="job-1",
        op="save",
        domain="web-1",
        domain_uuid=UUID,
        run_id=7,
        was_running=True,
        final=str(place.final),
        is_point=place.is_point,
        boot_id="boot",
    )
    return Staging(place, record)


@pytest.fixture(params=["file", "point"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Give the place of a file, then of a restore point."""
    if request.param == "file":
        return plan_file(tmp_path / "web.save", "job-1")
    return plan_point(tmp_path, UUID, "job-1", datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def prepared(place: Place) -> Staging:
    """Give a staging whose image is whole."""
    staging = make_staging(place)
    staging.create()
    staging.image.write_bytes(b"image")
    staging.image.chmod(0o600)
    staging.prepare("first manifest", "<domain/>")
    staging.release()
    return staging


def state_of(place: Place) -> str:
    """Return the state in the record."""
    return parse_record((place.staging / RECORD_NAME).read_text(), path="record").state


def test_record_says_how_far_it_came(place: Place) -> None:
    """First that the guest cannot be lost, then that its image is whole."""
    staging = make_staging(place)
    staging.create()
    assert state_of(place) == WRITING

    staging.image.write_bytes(b"image")
    staging.prepare("manifest", "<domain/>")

    assert state_of(place) == PREPARED
    assert not place.final.exists()
    staging.release()


def test_everything_is_for_its_owner_alone(place: Place) -> None:
    """Guest memory holds secrets: directories 0700, files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        staging = make_staging(place)
        staging.create()
        staging.prepare("manifest", "<domain/>")
        staging.release()
    finally:
        os.umask(before)

    assert place.staging.stat().st_mode & 0o777 == 0o700
    files = list(place.staging.iterdir())
    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_published_image_has_its_manifest_and_nothing_else(place: Place, prepared: Staging) -> None:
    """The last manifest lies beside the image; no staging, no record is left."""
    found = prepared.publish("last manifest")

    assert found == place.final
    assert place.image.read_bytes() == b"image"
    assert place.manifest.read_text() == "last manifest"
    assert not place.staging.exists()
    beside = {path.name for path in place.image.parent.iterdir()}
    assert beside - {".staging"} == (
        {"memory.save", "manifest.json", "domain.xml"}
        if place.is_point
        else {"web.save", "web.save.manifest.json"}
    )
    assert place.image.stat().st_mode & 0o777 == 0o600
    if place.is_point:
        assert place.final.stat().st_mode & 0o777 == 0o700
        assert place.final.parent.stat().st_mode & 0o777 == 0o700


def test_publishing_without_a_new_manifest_keeps_the_first(place: Place, prepared: Staging) -> None:
    """Recovery has nothing to add."""
    prepared.publish()

    assert place.manifest.read_text() == "first manifest"


def test_publish_may_be_called_again_after_it_was_interrupted(tmp_path: Path) -> None:
    """Killed between the two renames: the second call ends what the first began."""
    place = plan_file(tmp_path / "web.save", "job-1")
    staging = make_staging(place)
    staging.create()
    staging.image.write_bytes(b"image")
    staging.prepare("manifest", "<domain/>")
    staging.release()
    (place.staging / "manifest.json").rename(place.manifest)

    assert staging.publish() == place.final

    assert place.image.read_bytes() == b"image"
    assert place.manifest.read_text() == "manifest"


@pytest.mark.parametrize(
    ("moved", "taken"),
    [
        ("nothing", ["web.save"]),
        ("nothing", ["web.save.manifest.json"]),
        ("nothing", ["web.save", "web.save.manifest.json"]),
        ("manifest-to-final", ["web.save"]),
        ("manifest-to-spare", ["web.save"]),
        ("manifest-to-spare", ["web.save", "web.save.manifest.json"]),
    ],
)
def test_taken_name_is_left_alone_wherever_publishing_was_interrupted(
    tmp_path: Path, moved: str, taken: list[str]
) -> None:
    """Foreign files stay as they are, beside them stands the image with its own manifest."""
    place = plan_file(tmp_path / "web.save", "job-1")
    staging = make_staging(place)
    staging.create()
    staging.image.write_bytes(b"image")
    staging.prepare("manifest", "<domain/>")
    staging.release()
    spare = tmp_path / "web.save.job-1"
    if moved == "manifest-to-final":
        (place.staging / "manifest.json").rename(place.manifest)
    elif moved == "manifest-to-spare":
        (place.staging / "manifest.json").rename(f"{spare}.manifest.json")
    for name in taken:
        (tmp_path / name).write_text("foreign")

    assert staging.publish() == spare

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        **dict.fromkeys(taken, "foreign"),
        "web.save.job-1": "image",
        "web.save.job-1.manifest.json": "manifest",
    }


def test_point_that_exists_already_is_not_touched(tmp_path: Path) -> None:
    """Another point of the same name keeps it; ours stays in staging, whole."""
    place = plan_point(tmp_path, UUID, "job-1", datetime(2026, 1, 2, tzinfo=UTC))
    staging = make_staging(place)
    staging.create()
    staging.image.write_bytes(b"image")
    staging.prepare("manifest", "<domain/>")
    staging.release()
    place.final.mkdir(parents=True)

    with pytest.raises(StorageError, match="the image is whole") as caught:
        staging.publish()

    assert list(place.final.iterdir()) == []
    assert staging.image.read_bytes() == b"image"
    assert str(staging.image) in str(caught.value)


def test_discarded_staging_is_gone(place: Place) -> None:
    """Nothing of it is left, image included."""
    staging = make_staging(place)
    staging.create()
    staging.image.write_bytes(b"image")

    staging.discard()

    assert not place.staging.exists()
    staging.release()


def test_staging_of_somebody_else_is_never_discarded(place: Place) -> None:
    """A directory that was there before may hold the only copy of a guest."""
    first, second = make_staging(place), make_staging(place)
    first.create()
    first.image.write_bytes(b"the only copy")

    with pytest.raises(StorageError, match="exists"):
        second.create()
    second.discard()
    second.release()

    assert first.image.read_bytes() == b"the only copy"
    first.release()


def test_living_staging_is_locked(place: Place) -> None:
    """Recovery can tell a directory that somebody works in from one that is left."""
    staging = make_staging(place)
    staging.create()
    assert lock_directory(place.staging) is None

    staging.release()

    lock = lock_directory(place.staging)
    assert lock is not None
    os.close(lock)


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("name", ["manifest.json.new", "record.json.new"])
def test_staging_that_cannot_be_prepared_stays_unprepared(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str, name: str
) -> None:
    """The record says prepared only when everything before it is durable."""
    disk = FaultyOs()
    staging = make_staging(place)
    staging.create()
    monkeypatch.setattr(staging_module, "os", disk)
    disk.plan(call, OSError(errno.EIO, "injected"), name=name)

    with pytest.raises(StorageError, match="injected"):
        staging.prepare("manifest", "<domain/>")

    assert state_of(place) == WRITING
    staging.release()


def test_files_are_synced_before_the_record_says_prepared(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order on the disk is the promise: each file, its directory, and the record last."""
    synced: list[str] = []

    class WatchedOs:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def fsync(self, fd: int) -> None:
            synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
            os.fsync(fd)

    staging = make_staging(place)
    staging.create()
    monkeypatch.setattr(staging_module, "os", WatchedOs())

    staging.prepare("manifest", "<domain/>")

    files = ["manifest.json.new", "record.json.new"]
    if place.is_point:
        files.insert(0, "domain.xml.new")
    assert synced == [name for file in files for name in (file, place.staging.name)]
    synced.clear()
    staging.image.write_bytes(b"image")
    staging.publish()
    assert place.final.parent.name in synced
    staging.release()


def test_record_survives_its_file(place: Place) -> None:
    """What recovery reads is what was written."""
    record = make_staging(place)._record

    assert parse_record(record.to_json(), path="r") == record
    assert parse_record(replace(record, state=PREPARED).to_json(), path="r").state == PREPARED
