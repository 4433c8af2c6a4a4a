"""What an image is, said of every kind of image there is."""

import os
import struct
from pathlib import Path

import pytest

from engine.directio.residency import resident_bytes
from engine.errors import DomainXmlError, ImageFormatError, ImageIncompleteError, StorageError
from engine.examine import image_dumpxml, image_info
from engine.image.header import ImageFormat
from engine.store.places import manifest_of
from tests.data.image_files import UUID, XML, write_image, write_point

SECRET_XML = XML.replace("</domain>", "<devices><graphics type='vnc' passwd='s3cret'/></devices></domain>")


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("image_format", ImageFormat)
def test_every_format_and_byte_order_is_described(
    tmp_path: Path, image_format: ImageFormat, byte_order: str
) -> None:
    """An image of a foreign writer, without a manifest, is described to the byte."""
    path = tmp_path / "a.save"
    image = write_image(path, image_format=image_format, byte_order=byte_order, has_manifest=False)

    found = image_info(path)

    assert (found.format, found.format_code) == (image_format.name.lower(), image_format.value)
    assert found.byte_order == {"<": "little", ">": "big"}[byte_order]
    assert (found.magic, found.version, found.is_complete) == ("LibvirtQemudSave", 2, True)
    assert (found.domain, found.domain_uuid) == ("web-1", UUID)
    assert found.machine.memory_bytes == 256 * 2**20
    assert (found.machine.machine, found.machine.cpu) == ("pc-q35-10.0", "qemu64")
    assert found.xml_bytes == len(XML)
    assert found.padding_bytes == 65536
    assert found.head_bytes == 92 + len(XML) + 1 + len("<cookie/>") + 1 + 65536
    assert found.head_bytes + found.stream_bytes == found.file_bytes == len(image)
    assert found.manifest is None
    assert image_dumpxml(path) == XML


def test_manifest_is_shown_where_there_is_one(tmp_path: Path) -> None:
    """Parts' checksums stay where they are; the JSON holds no more than a person reads."""
    write_image(tmp_path / "a.save", was_running=False)

    found = image_info(tmp_path / "a.save")

    assert found.manifest is not None
    assert found.manifest.host == "here"
    assert not found.was_running
    assert set(found.to_dict()["manifest"]["checksum"]) == {"algorithm", "value"}


def test_restore_point_is_named_by_its_directory(tmp_path: Path) -> None:
    """Directory, image file and a link to either are the same image."""
    point = tmp_path / "store" / UUID / "20260101T000000Z-job-1"
    write_point(point)
    link = tmp_path / "link"
    link.symlink_to(point)

    assert {image_info(path).path for path in (point, point / "memory.save", link)} == {
        str(point / "memory.save")
    }


def test_unfinished_image_is_described_and_said_to_be_so(tmp_path: Path) -> None:
    """The mark of a save that never ended does not keep one from looking, only from using it."""
    path = tmp_path / "a.save"
    write_image(path, has_manifest=False)
    with path.open("r+b") as file:
        file.write(b"LibvirtQemudPart")

    found = image_info(path)

    assert (found.magic, found.is_complete) == ("LibvirtQemudPart", False)
    assert "never finished" in found.incomplete_because
    with pytest.raises(ImageIncompleteError, match="never finished"):
        image_dumpxml(path)


@pytest.mark.parametrize(("cut", "why"), [(1, "by its manifest"), (1_000_003, "memory begins")])
def test_image_cut_short_is_not_complete(tmp_path: Path, cut: int, why: str) -> None:
    """Its length is compared with the manifest, and with its own header where there is none."""
    path = tmp_path / "a.save"
    image = write_image(path, has_manifest=cut == 1)
    os.truncate(path, len(image) - cut)

    found = image_info(path)

    assert not found.is_complete
    assert why in found.incomplete_because


def test_image_that_ends_inside_its_head_is_incomplete(tmp_path: Path) -> None:
    """There is nothing to describe."""
    write_image(tmp_path / "a.save", has_manifest=False)
    os.truncate(tmp_path / "a.save", 500)

    with pytest.raises(ImageIncompleteError):
        image_info(tmp_path / "a.save")


@pytest.mark.parametrize(
    "data", [b"", b"x" * 91, b"TestGuestMagic\0" + bytes(200), bytes(5000), b"\x7fELF" * 4000]
)
def test_other_files_are_no_images(tmp_path: Path, data: bytes) -> None:
    """The driver test:/// has an image format of its own; it is none of QEMU's."""
    path = tmp_path / "a.save"
    path.write_bytes(data)

    with pytest.raises(ImageFormatError):
        image_info(path)


@pytest.mark.parametrize("offset", [20, 28, 32])
def test_header_that_lies_is_refused(tmp_path: Path, offset: int) -> None:
    """Lengths of 4 GiB, formats and cookies that cannot be are named with their place."""
    path = tmp_path / "a.save"
    write_image(path, has_manifest=False)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<I", 2**32 - 1))

    with pytest.raises(ImageFormatError, match=f"at byte {offset}"):
        image_info(path)


def test_head_larger_than_the_first_read_is_found(tmp_path: Path) -> None:
    """XML of some MiB is read as a whole."""
    xml = XML.replace("</domain>", f"<description>{'z' * 3_000_000}</description></domain>")
    write_image(tmp_path / "a.save", xml=xml)

    assert image_info(tmp_path / "a.save").xml_bytes == len(xml)
    assert image_dumpxml(tmp_path / "a.save") == xml


def test_broken_manifest_hides_no_image(tmp_path: Path) -> None:
    """The image is described, and what is wrong beside it is said."""
    path = tmp_path / "a.save"
    write_image(path)
    manifest_of(path).write_text("{")

    found = image_info(path)

    assert (found.is_complete, found.manifest) == (True, None)
    assert "no manifest" in found.manifest_problem


def test_missing_and_odd_files_are_named(tmp_path: Path) -> None:
    """Nothing waits for a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()

    for name in ("pipe", "none.save", "empty"):
        with pytest.raises(StorageError, match=name):
            image_info(tmp_path / name)


def test_passwords_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    """With security information the text is the image's to the byte."""
    path = tmp_path / "a.save"
    write_image(path, xml=SECRET_XML, has_manifest=False)

    hidden = image_dumpxml(path)

    assert "s3cret" not in hidden
    assert 'passwd="*****"' in hidden
    assert image_dumpxml(path, security_info=True) == SECRET_XML


def test_text_that_is_no_xml_is_shown_only_when_asked_for(tmp_path: Path) -> None:
    """Where passwords cannot be found they cannot be hidden."""
    path = tmp_path / "a.save"
    write_image(path, xml="<domain passwd='s3cret'", has_manifest=False)

    with pytest.raises(DomainXmlError):
        image_dumpxml(path)
    with pytest.raises(DomainXmlError):
        image_info(path)
    assert image_dumpxml(path, security_info=True) == "<domain passwd='s3cret'"


def test_a_look_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    """Images are looked at by the thousand; the guests' pages stay where they are."""
    path = tmp_path / "a.save"
    write_image(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        image_info(path)
        image_dumpxml(path)
        assert resident_bytes(file.fileno()) == 0
