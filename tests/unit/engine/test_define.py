"""An image is given another XML or another state, and nothing else of it changes."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from engine.cancel import CancelToken
from engine.define import DEFINE_STEPS, Definition, image_define
from engine.directio.target import DirectFile
from engine.domxml.changes import Change
from engine.errors import (
    AbiError,
    CancelledError,
    ChecksumError,
    DomainBusyError,
    DomainXmlError,
    ImageFormatError,
    InvalidArgumentError,
    NotSupportedError,
    TryAgainError,
)
from engine.examine import image_dumpxml, image_info
from engine.flags import BypassPolicy, SaveFlags
from engine.image.header import ImageFormat
from engine.image.manifest import Manifest, parse_manifest
from engine.observer import SilentObserver
from engine.steps import Step
from engine.store import images
from engine.store.images import open_image
from engine.store.places import manifest_of, next_manifest_of
from engine.store.replacement import Replacement
from engine.verify import image_verify
from tests.data.image_files import LARGE_XML, OTHER_XML, UUID, XML, memory_stream, write_image, write_point

SECRET_XML = XML.replace("</domain>", "<devices><graphics type='vnc' passwd='s3cret'/></devices></domain>")


def names(directory: Path) -> list[str]:
    """Return the names in a directory, sorted."""
    return sorted(path.name for path in directory.iterdir())


class Steps(SilentObserver):
    """Notes the steps, and does at one what a test wants done there."""

    def __init__(self, at: Step | None = None, act: object = None) -> None:
        self.steps: list[Step] = []
        self._at, self._act = at, act

    def step(self, step: Step) -> None:
        """Note the step."""
        self.steps.append(step)
        if step is self._at:
            assert callable(self._act)
            self._act()


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("image_format", ImageFormat)
def test_xml_is_replaced_in_every_format(tmp_path: Path, image_format: ImageFormat, byte_order: str) -> None:
    """What libvirt's save-image-define does, with the manifest of the new image beside it."""
    path = tmp_path / "a.save"
    before = write_image(path, image_format=image_format, byte_order=byte_order)

    done = image_define(path, OTHER_XML)

    assert image_dumpxml(path) == OTHER_XML
    assert path.read_bytes()[70_000:] == before[70_000:]
    assert path.read_bytes()[:20] == before[:20]
    found = image_verify(path)
    assert (found.is_compared, found.bytes) == (True, len(before))
    assert done.checksum == found.checksum
    assert done.dxml_changes == (Change(xpath="/domain/on_crash[1]/text()", old="destroy", new="restart"),)
    assert names(tmp_path) == [path.name, manifest_of(path).name]


@pytest.mark.parametrize(
    ("flags", "was_running"), [(SaveFlags.PAUSED, False), (SaveFlags.RUNNING, True), (SaveFlags.NONE, True)]
)
def test_flag_decides_what_the_guest_is_after_a_restore(
    tmp_path: Path, flags: SaveFlags, was_running: bool
) -> None:
    """Header and manifest say the same."""
    path = tmp_path / "a.save"
    write_image(path)

    done = image_define(path, OTHER_XML, flags)

    info = image_info(path)
    assert info.manifest is not None
    assert (done.was_running, info.was_running, info.manifest.was_running) == (was_running,) * 3


def test_state_alone_can_be_changed(tmp_path: Path) -> None:
    """The XML stays to the byte."""
    path = tmp_path / "a.save"
    before = write_image(path)

    done = image_define(path, None, SaveFlags.PAUSED)

    after = path.read_bytes()
    assert (done.is_changed, done.dxml_changes) == (True, ())
    assert after[:24] + b"\1" + after[25:] == before
    assert image_verify(path).is_compared


def test_larger_xml_moves_the_memory(tmp_path: Path) -> None:
    """Where libvirt refuses, the image grows; the memory is the same, and there is room again."""
    path = tmp_path / "a.save"
    write_image(path)

    done = image_define(path, LARGE_XML)

    assert done.moved_bytes > 0
    assert image_dumpxml(path) == LARGE_XML
    assert path.read_bytes().endswith(memory_stream(1_000_003))
    info = image_info(path)
    assert info.padding_bytes >= 65536
    assert info.stream_bytes == 1_000_003
    assert image_verify(path).bytes == done.bytes == info.file_bytes
    image_define(path, XML)
    assert path.read_bytes().endswith(memory_stream(1_000_003))
    assert image_verify(path).is_compared


def test_image_of_many_buffers_is_copied_to_the_byte(tmp_path: Path) -> None:
    """More than one buffer, an odd length, moved and not moved."""
    path = tmp_path / "a.save"
    stream = memory_stream(7_000_001)
    write_image(path, stream=stream, has_manifest=False)

    for xml in (OTHER_XML, LARGE_XML):
        image_define(path, xml)
        assert path.read_bytes().endswith(stream)
        assert image_info(path).stream_bytes == len(stream)


def test_sparse_image_stays_sparse_and_in_place(tmp_path: Path) -> None:
    """Holes are not filled with zeros, and memory that cannot move is not moved."""
    path = tmp_path / "a.save"
    image = write_image(path, image_format=ImageFormat.SPARSE, stream=memory_stream(8192), has_manifest=False)
    with path.open("r+b") as file:
        file.truncate(len(image) + 200 * 2**20)
        file.seek(150 * 2**20)
        file.write(b"page" * 1024)
    used = path.stat().st_blocks

    image_define(path, OTHER_XML)

    assert path.stat().st_size == len(image) + 200 * 2**20
    assert path.stat().st_blocks <= used + 16
    with path.open("rb") as file:
        file.seek(150 * 2**20)
        assert file.read(4096) == b"page" * 1024
    before = path.stat().st_ino
    with pytest.raises(NotSupportedError, match="new xml too large to fit in file"):
        image_define(path, LARGE_XML)
    assert path.stat().st_ino == before


def test_restore_point_changes_as_a_whole(tmp_path: Path) -> None:
    """Image, manifest and the XML beside them; nothing is left in the store's staging."""
    point = tmp_path / "store" / UUID / "20260101T000000Z-job-1"
    write_point(point)
    (tmp_path / "store" / ".staging").mkdir()

    image_define(point, LARGE_XML, SaveFlags.PAUSED)

    assert names(point) == ["domain.xml", "manifest.json", "memory.save"]
    assert (point / "domain.xml").read_text() == LARGE_XML
    assert names(tmp_path / "store" / ".staging") == []
    assert image_verify(point).is_compared


def test_same_again_changes_nothing(tmp_path: Path) -> None:
    """As in libvirt: identical XML and state are no reason to write."""
    path = tmp_path / "a.save"
    write_image(path)
    before = path.stat()

    done = image_define(path, XML, SaveFlags.RUNNING)

    assert not done.is_changed
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_owner_and_mode_stay(tmp_path: Path) -> None:
    """Whoever could read the image can read the new one, and nobody else."""
    path = tmp_path / "a.save"
    write_image(path)
    for each, mode in ((path, 0o640), (manifest_of(path), 0o604)):
        os.chown(each, 12345, 54321)
        each.chmod(mode)

    image_define(path, OTHER_XML)

    for each, mode in ((path, 0o640), (manifest_of(path), 0o604)):
        found = each.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 54321, mode)


@pytest.mark.parametrize(
    ("xml", "error", "sentence"),
    [
        (XML.replace("web-1", "web-2"), AbiError, "may not rename"),
        (XML.replace(UUID, UUID.replace("0b", "1c")), AbiError, "uuid"),
        (XML.replace(f"<uuid>{UUID}</uuid>", ""), AbiError, "no <uuid>"),
        ("<domain", DomainXmlError, "well-formed"),
        ("<network/>", DomainXmlError, "root element"),
        (f"<?xml version='1.0' encoding='ISO-8859-1'?>{XML}", DomainXmlError, "ISO-8859-1"),
        (SECRET_XML.replace("s3cret", "*****"), DomainXmlError, "--security-info"),
    ],
)
def test_xml_that_cannot_be_restored_is_refused(
    tmp_path: Path, xml: str, error: type[Exception], sentence: str
) -> None:
    """Another domain's XML, none at all, or one whose passwords were hidden: the image is untouched."""
    path = tmp_path / "a.save"
    before = write_image(path)

    with pytest.raises(error, match=sentence):
        image_define(path, xml)

    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name, manifest_of(path).name]


def test_passwords_go_into_the_image_and_nowhere_else(tmp_path: Path) -> None:
    """Neither the answer nor the manifest repeats them."""
    path = tmp_path / "a.save"
    write_image(path, xml=SECRET_XML)

    done = image_define(path, SECRET_XML.replace("s3cret", "n3wpass").replace("destroy", "restart"))

    assert "n3wpass" in image_dumpxml(path, security_info=True)
    for text in (str(done.to_dict()), manifest_of(path).read_text()):
        assert "n3wpass" not in text
        assert "s3cret" not in text


@pytest.mark.parametrize(
    ("dxml", "flags"), [(None, 0), (XML, SaveFlags.RUNNING | SaveFlags.PAUSED), (XML, SaveFlags.RESET_NVRAM)]
)
def test_calls_that_make_no_sense_are_refused(tmp_path: Path, dxml: str | None, flags: int) -> None:
    """Nothing to change, flags that exclude each other, a flag of another operation."""
    write_image(tmp_path / "a.save")

    with pytest.raises(InvalidArgumentError):
        image_define(tmp_path / "a.save", dxml, flags)


def test_damaged_image_gets_no_new_checksum(tmp_path: Path) -> None:
    """Damage in the memory would be made to look right: it is named, and nothing is written."""
    path = tmp_path / "a.save"
    write_image(path)
    with path.open("r+b") as file:
        file.seek(900_000)
        file.write(b"damaged")
    before = path.read_bytes()

    with pytest.raises(ChecksumError, match="part 0"):
        image_define(path, OTHER_XML)

    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name, manifest_of(path).name]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """What is no image is not made one."""
    path = tmp_path / "notes.txt"
    path.write_text("not an image" * 100)

    with pytest.raises(ImageFormatError):
        image_define(path, XML)

    assert names(tmp_path) == ["notes.txt"]


def test_image_is_replaced_by_one_at_a_time(tmp_path: Path) -> None:
    """The second is told so at once, and the first goes on."""
    path = tmp_path / "a.save"
    before = write_image(path)

    with Replacement(path), pytest.raises(DomainBusyError, match="another process"):
        image_define(path, OTHER_XML)
    assert path.read_bytes() == before

    assert image_define(path, OTHER_XML).is_changed


def test_steps_are_told_in_order(tmp_path: Path) -> None:
    """The list that the fault tests walk is the list of what is told."""
    write_image(tmp_path / "a.save")
    observer = Steps()

    image_define(tmp_path / "a.save", OTHER_XML, observer=observer)

    assert tuple(observer.steps) == DEFINE_STEPS


@pytest.mark.parametrize("step", [step for step in DEFINE_STEPS if step not in {Step.PUBLISHED, Step.DONE}])
def test_cancel_before_the_image_is_replaced_leaves_the_old_one(tmp_path: Path, step: Step) -> None:
    """At every step up to the point of no return."""
    path = tmp_path / "a.save"
    before = write_image(path)
    cancel = CancelToken()

    with pytest.raises(CancelledError):
        image_define(path, OTHER_XML, observer=Steps(step, lambda: cancel.cancel("enough")), cancel=cancel)

    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name, manifest_of(path).name]


def test_image_that_somebody_writes_to_is_not_replaced(tmp_path: Path) -> None:
    """An edit by virsh in the middle of it: that work is not thrown away."""
    path = tmp_path / "a.save"
    write_image(path, has_manifest=False)

    def write() -> None:
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"edited")

    with pytest.raises(TryAgainError, match="changed while it was copied"):
        image_define(path, OTHER_XML, observer=Steps(Step.SYNCED, write))

    assert b"edited" in path.read_bytes()[:200]


def test_reader_that_opened_the_old_image_never_gets_the_new_manifest(tmp_path: Path) -> None:
    """Between opening the image and reading the manifest both are replaced: the reader opens both again."""
    path = tmp_path / "a.save"
    write_image(path)
    real, done = images.find_manifest, list[Definition]()

    with pytest.MonkeyPatch.context() as patch:

        def replaced_meanwhile(file: DirectFile, size: int) -> Manifest | None:
            patch.undo()
            done.append(image_define(path, LARGE_XML))
            return real(file, size)

        patch.setattr(images, "find_manifest", replaced_meanwhile)
        image = open_image(path, BypassPolicy.PREFER)

    image.file.close()
    assert image.manifest is not None
    assert (image.size, image.manifest.checksum) == (done[0].bytes, done[0].checksum)


def test_next_manifest_that_fits_nothing_counts_for_nothing(tmp_path: Path) -> None:
    """Left by a crash, of other bytes or of no JSON: readers pass it by, the next definition tidies up."""
    path = tmp_path / "a.save"
    write_image(path)
    manifest = parse_manifest(manifest_of(path).read_text(), path="")
    other = replace(manifest, checksum=replace(manifest.checksum, value="0" * 64, parts=("0" * 64,)))

    for text in (other.to_json(), "{", ""):
        next_manifest_of(path).write_text(text)
        assert image_verify(path).is_compared
        assert image_info(path).manifest == manifest

    image_define(path, XML)
    assert not next_manifest_of(path).exists()


def test_without_direct_io_it_works_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prefer` is the default: a file system that refuses O_DIRECT keeps nobody from it."""
    path = tmp_path / "a.save"
    write_image(path)
    real = os.open

    def refusing(name: str, flags: int, *arguments: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(name, flags, *arguments)

    monkeypatch.setattr(os, "open", refusing)

    image_define(path, LARGE_XML)

    assert image_dumpxml(path) == LARGE_XML
    assert image_verify(path, bypass_cache="prefer").is_compared
