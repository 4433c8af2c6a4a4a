"""A damaged byte is found wherever it is, and its part is named."""

import json
import mmap
import os
import pickle
from pathlib import Path

import pytest

from engine.cancel import CancelToken
from engine.checksum import PART_SIZE
from engine.directio.residency import resident_bytes
from engine.errors import CancelledError, ChecksumError, ImageFormatError, ImageIncompleteError, StorageError
from engine.image.header import ImageFormat
from engine.store.places import manifest_of
from engine.verify import DamagedPart, DamagedPartsError, image_verify
from tests.data.image_files import describe, memory_stream, write_image, write_point


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file, behind the page cache's back as a disk would."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
        file.flush()
        os.fsync(file.fileno())


def write_large(path: Path) -> int:
    """Write an image of three parts, the last one short; return its length."""
    image = write_image(path, stream=memory_stream(4096) + bytes(2 * PART_SIZE))
    return len(image)


def test_whole_image_is_compared_and_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    """Every byte is read from the disk, none stays in memory."""
    path = tmp_path / "a.save"
    image = write_image(path)

    found = image_verify(path)

    assert (found.is_compared, found.bytes) == (True, len(image))
    assert found.checksum == describe(image).checksum
    assert found.bypass_cache.direct_bytes == len(image)
    assert found.bypass_cache.resident_bytes == 0
    with path.open("rb") as file:
        assert resident_bytes(file.fileno()) == 0


def test_restore_point_is_verified_by_its_directory(tmp_path: Path) -> None:
    """What the user names is the point."""
    write_point(tmp_path / "point")

    assert image_verify(tmp_path / "point").is_compared


@pytest.mark.parametrize("where", ["magic", "state", "xml", "padding", "memory", "end"])
def test_one_bit_anywhere_is_found(tmp_path: Path, where: str) -> None:
    """Whatever the bit belongs to, the answer is its part, even where the head cannot be read any more."""
    path = tmp_path / "a.save"
    size = len(write_image(path))
    flip(
        path,
        {"magic": 3, "state": 24, "xml": 100, "padding": 30_000, "memory": 500_000, "end": size - 1}[where],
    )

    with pytest.raises(ChecksumError) as caught:
        image_verify(path)

    assert isinstance(caught.value, DamagedPartsError)
    assert caught.value.parts == (DamagedPart(number=0, start=0, end=size),)
    assert caught.value.exit_code == 13


def test_each_damaged_part_is_named_with_its_bytes(tmp_path: Path) -> None:
    """The first and the last of three: the one between is not accused, and other processes learn it, too."""
    path = tmp_path / "a.save"
    size = write_large(path)
    flip(path, 70_000)
    flip(path, size - 1)

    with pytest.raises(DamagedPartsError) as caught:
        image_verify(path)

    assert f"parts 0 (bytes 0 to {PART_SIZE - 1}), 2 (bytes {2 * PART_SIZE} to {size - 1})" in str(
        caught.value
    )
    travelled = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert travelled.parts == caught.value.parts
    assert travelled.to_dict()["fields"]["damaged_parts"] == [
        {"number": 0, "start": 0, "end": PART_SIZE},
        {"number": 2, "start": 2 * PART_SIZE, "end": size},
    ]


def test_damage_is_seen_on_the_disk_not_in_the_cache(tmp_path: Path) -> None:
    """Clean pages of the undamaged image are in the cache; the disk says otherwise and is believed."""
    path = tmp_path / "a.save"
    write_image(path)
    path.read_bytes()
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        os.fsync(fd)
        block = mmap.mmap(-1, 4096)
        os.preadv(fd, [block], 4096 * 100)
        block[7] ^= 1
        os.pwrite(fd, block, 4096 * 100)
    finally:
        os.close(fd)

    with pytest.raises(DamagedPartsError):
        image_verify(path)


@pytest.mark.parametrize("image_format", [ImageFormat.RAW, ImageFormat.SPARSE])
def test_without_manifest_the_memory_has_to_begin_as_it_should(
    tmp_path: Path, image_format: ImageFormat
) -> None:
    """There is nothing to compare with, and the answer says so; nonsense is refused all the same."""
    write_image(tmp_path / "a.save", image_format=image_format, has_manifest=False)
    write_image(tmp_path / "b.save", image_format=image_format, stream=b"nonsense" * 500, has_manifest=False)

    found = image_verify(tmp_path / "a.save")

    assert not found.is_compared
    assert found.to_dict()["checksum"]["value"]
    with pytest.raises(ImageFormatError, match="begins with b'nons'"):
        image_verify(tmp_path / "b.save")


def test_manifest_that_contradicts_itself_is_not_believed(tmp_path: Path) -> None:
    """Every part fits and the whole does not: no byte of the image is accused."""
    path = tmp_path / "a.save"
    write_image(path)
    document = json.loads(manifest_of(path).read_text())
    document["checksum"]["value"] = "0" * 64
    manifest_of(path).write_text(json.dumps(document))

    with pytest.raises(ChecksumError, match="every part fits"):
        image_verify(path)


def test_images_that_cannot_be_verified_say_why(tmp_path: Path) -> None:
    """Cut short, never finished, not there: each has its own error and exit code."""
    for name in ("cut.save", "part.save"):
        write_image(tmp_path / name)
    os.truncate(tmp_path / "cut.save", 500_000)
    with (tmp_path / "part.save").open("r+b") as file:
        file.write(b"LibvirtQemudPart")

    for name in ("cut.save", "part.save"):
        with pytest.raises(ImageIncompleteError):
            image_verify(tmp_path / name)
    with pytest.raises(StorageError):
        image_verify(tmp_path / "none.save")


def test_verification_can_be_stopped(tmp_path: Path) -> None:
    """A cancel ends it between two buffers."""
    write_image(tmp_path / "a.save")
    cancel = CancelToken()
    cancel.cancel("enough")

    with pytest.raises(CancelledError):
        image_verify(tmp_path / "a.save", cancel=cancel)
