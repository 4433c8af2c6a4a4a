from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from engine.errors import InvalidArgumentError, PathNotAllowedError, StorageError, TargetExistsError
from engine.store.places import (
    check_allowed,
    check_store,
    check_target,
    find_image,
    manifest_of,
    plan_file,
    plan_point,
    spare_of,
)

UUID = "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give the one directory that this host allows."""
    directory = tmp_path / "root"
    directory.mkdir()
    return directory


def test_file_is_staged_beside_its_place(tmp_path: Path) -> None:
    """Both are on one file system, and the staging directory is hidden."""
    place = plan_file(tmp_path / "web.save", "job-1")

    assert place.staging == tmp_path / ".fleetsave-job-1"
    assert place.image == place.final == tmp_path / "web.save"
    assert place.manifest == tmp_path / "web.save.manifest.json"
    assert not place.is_point


def test_point_is_named_by_utc_time_and_job(tmp_path: Path) -> None:
    """Wherever the host's clock is, the name is in UTC and sorts by time."""
    now = datetime(2026, 3, 4, 1, 2, 3, tzinfo=timezone(timedelta(hours=5)))

    place = plan_point(tmp_path, UUID, "job-1", now)

    assert place.final == tmp_path / UUID / "20260303T200203Z-job-1"
    assert place.staging == tmp_path / ".staging" / "job-1"
    assert place.image == place.final / "memory.save"
    assert place.manifest == place.final / "manifest.json"
    later = plan_point(tmp_path, UUID, "a", now.astimezone(UTC) + timedelta(seconds=1))
    assert later.final.name > place.final.name


@pytest.mark.parametrize("inside", ["", "a.save", "a/b/c.save", "missing/too", "a/../b.save"])
def test_path_below_a_root_is_allowed(root: Path, inside: str) -> None:
    """The root itself and all below it, existing or not."""
    check_allowed(root / inside, [str(root)])
    check_allowed(root / inside, ["/nowhere", f"{root}/"])


@pytest.mark.parametrize(
    "outside", ["../other.save", "..", "../root-2/a.save", "a/../../b.save", "/etc/passwd"]
)
def test_path_outside_the_roots_is_refused(root: Path, outside: str) -> None:
    """Neither `..` nor a name that only begins alike gets out."""
    with pytest.raises(PathNotAllowedError, match="outside the directories") as caught:
        check_allowed(root / outside, [str(root)])

    assert caught.value.exit_code == 23


@pytest.mark.parametrize("name", ["link", "link/deeper", "chain"])
def test_link_out_of_the_roots_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    """A link is where it leads to, over several links and for what is not there yet."""
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "chain").symlink_to("link")

    with pytest.raises(PathNotAllowedError):
        check_allowed(root / name / "a.save", [str(root)])


def test_root_that_is_a_link_is_where_it_leads(root: Path, tmp_path: Path) -> None:
    """A configured link allows what it leads to, by either name."""
    (tmp_path / "alias").symlink_to(root)

    check_allowed(root / "a.save", [str(tmp_path / "alias")])
    check_allowed(tmp_path / "alias" / "a.save", [str(root)])


def test_no_roots_are_not_all_roots(root: Path) -> None:
    """None means anywhere; an empty list means nowhere."""
    check_allowed(Path("/anything"), None)

    with pytest.raises(PathNotAllowedError, match="none is configured"):
        check_allowed(root, [])


def test_free_name_is_taken(root: Path) -> None:
    """A name that is free in a directory that can be written to."""
    check_target(root / "a.save", "job-1")


@pytest.mark.parametrize("taken", ["a.save", "a.save.manifest.json"])
@pytest.mark.parametrize("kind", ["file", "dangling-link"])
def test_taken_name_is_refused(root: Path, taken: str, kind: str) -> None:
    """Image, manifest, or a link of that name that leads nowhere: nothing is overwritten."""
    if kind == "file":
        (root / taken).touch()
    else:
        (root / taken).symlink_to("nowhere")

    with pytest.raises(TargetExistsError, match="overwrites nothing"):
        check_target(root / "a.save", "job-1")


def test_directory_is_no_file_name(root: Path) -> None:
    """A directory asks for a name in it."""
    with pytest.raises(InvalidArgumentError, match="a directory"):
        check_target(root, "job-1")


def test_target_needs_its_directory(root: Path) -> None:
    """A directory that is missing, or is a file, is named."""
    (root / "file").touch()

    with pytest.raises(StorageError, match="no such directory"):
        check_target(root / "missing" / "a.save", "job-1")
    with pytest.raises(StorageError, match="not a directory"):
        check_target(root / "file" / "a.save", "job-1")


def test_name_leaves_room_for_all_that_is_made_of_it(root: Path) -> None:
    """The longest name that is allowed can be had by image, manifest and spare; one byte more is refused."""
    job_id = "j" * 64
    limit = os.pathconf(root, "PC_NAME_MAX")
    longest = root / ("a" * (limit - len(f".{job_id}.manifest.json")))

    check_target(longest, job_id)
    manifest_of(spare_of(longest, job_id)).touch()
    with pytest.raises(InvalidArgumentError, match=f"at most {len(longest.name)}"):
        check_target(root / f"{longest.name}a", job_id)


def test_store_is_made_where_its_parent_is(root: Path) -> None:
    """A missing store is made, for its owner alone; a missing parent is not."""
    check_store(root / "store")
    check_store(root / "store")

    assert (root / "store").stat().st_mode & 0o777 == 0o700
    with pytest.raises(StorageError, match="no such directory"):
        check_store(root / "missing" / "store")
    assert not (root / "missing").exists()


def test_store_that_cannot_be_made_is_told() -> None:
    """A parent that takes no directories is a storage error."""
    with pytest.raises(StorageError, match="store"):
        check_store(Path("/proc/store"))


def test_store_that_is_a_file_is_refused(root: Path) -> None:
    """A file cannot hold restore points."""
    (root / "store").touch()

    with pytest.raises(StorageError, match="not a directory"):
        check_store(root / "store")


def test_image_is_found_by_its_file_or_its_point(root: Path) -> None:
    """A file is itself; a directory means the image in it."""
    (root / "memory.save").touch()

    assert find_image(root / "memory.save") == root / "memory.save"
    assert find_image(root) == root / "memory.save"


@pytest.mark.parametrize("name", ["missing", "fifo", "point-without-image", "loop"])
def test_what_is_no_image_file_is_refused_at_once(root: Path, name: str) -> None:
    """Nothing there, a pipe, a point without its image: an error, not a wait."""
    os.mkfifo(root / "fifo")
    (root / "point-without-image").mkdir()
    (root / "loop").symlink_to("loop")

    with pytest.raises(StorageError) as caught:
        find_image(root / name)

    assert str(root / name) in str(caught.value)
