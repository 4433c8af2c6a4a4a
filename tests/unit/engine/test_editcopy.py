"""A copy of an image with another front: the memory is the same, and nothing is left of it afterwards."""

import errno
from pathlib import Path

import pytest

from engine.directio.target import DirectFile
from engine.editcopy import copy_staging_of, open_edited_copy
from engine.errors import NoSpaceError
from engine.examine import image_dumpxml
from engine.flags import BypassPolicy
from engine.hypervisor.port import Hypervisor
from engine.image.edit import EditedHead, edit_head
from engine.image.header import ImageFormat
from engine.recover import recover
from engine.store.images import OpenImage, open_image
from tests.data.image_files import LARGE_XML, OTHER_XML, write_image, write_point

JOB = "0123456789abcdef"


def edit(path: Path, xml: str) -> tuple[OpenImage, EditedHead]:
    """Return an image that is open, and its front with another XML."""
    image = open_image(path, BypassPolicy.PREFER)
    return image, edit_head(image.head, path=str(path), domain_xml=xml)


def ignore(_done_bytes: int) -> None:
    """Take progress that nobody wants."""


@pytest.mark.parametrize(("xml", "is_moved"), [(OTHER_XML, False), (LARGE_XML, True)])
def test_copy_differs_in_its_front_alone(tmp_path: Path, xml: str, is_moved: bool) -> None:
    """Memory and format are the original's, which stays what it was; afterwards only that is there."""
    path = tmp_path / "a.save"
    before = write_image(path, image_format=ImageFormat.GZIP)
    image, edited = edit(path, xml)
    offset = image.head.header.stream_offset

    with open_edited_copy(image, edited, JOB, on_progress=ignore) as copy:
        assert image_dumpxml(copy) == xml
        assert copy.read_bytes()[offset + edited.shift :] == before[offset:]
        assert copy.stat().st_mode & 0o777 == 0o600
        assert copy.parent.stat().st_mode & 0o777 == 0o700

    image.file.close()
    assert bool(edited.shift) is is_moved
    assert path.read_bytes() == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.save", "a.save.manifest.json"]


def test_copy_of_a_restore_point_is_made_in_the_store_s_staging(tmp_path: Path) -> None:
    """Nothing that is not whole lies beside restore points."""
    point = tmp_path / "uuid" / "20260101T000000Z-job"
    write_point(point)
    (tmp_path / ".staging").mkdir()
    image, edited = edit(point / "memory.save", OTHER_XML)

    with open_edited_copy(image, edited, JOB, on_progress=ignore) as copy:
        assert copy.parent.parent == tmp_path / ".staging"

    image.file.close()
    assert not list((tmp_path / ".staging").iterdir())


def test_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what could not be written; the original is untouched."""
    path = tmp_path / "a.save"
    before = write_image(path)
    image, edited = edit(path, OTHER_XML)

    def refuse(_file: DirectFile, _data: memoryview, _offset: int) -> None:
        raise OSError(errno.ENOSPC, "injected")

    monkeypatch.setattr(DirectFile, "write_at", refuse)

    with pytest.raises(NoSpaceError), open_edited_copy(image, edited, JOB, on_progress=ignore):
        pytest.fail("a copy that could not be written was handed out")

    image.file.close()
    assert path.read_bytes() == before
    assert not copy_staging_of(path, JOB).exists()


def nobody() -> Hypervisor:
    """Stand for a libvirt that must not be asked."""
    raise AssertionError("no guest has to be looked at")


def test_copy_of_a_dead_process_is_swept(tmp_path: Path) -> None:
    """It is nobody's only copy: no guest has to be looked at."""
    path = tmp_path / "a.save"
    write_image(path)
    left = copy_staging_of(path, JOB)
    left.mkdir()
    (left / "memory.save").write_bytes(b"x")

    [found] = recover(tmp_path / "run", [tmp_path], nobody)

    assert found.kind == "discarded"
    assert not left.exists()
