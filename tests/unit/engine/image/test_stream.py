"""A memory stream begins as its format does."""

import bz2
import gzip
import lzma

import pytest

from engine.errors import ImageFormatError
from engine.image.header import ImageFormat
from engine.image.stream import BEGINNING_SIZE, check_beginning

STREAM = b"QEVM" + bytes(60)
#: lzop and zstd as their programs write them.
BEGINNINGS = {
    ImageFormat.RAW: STREAM,
    ImageFormat.GZIP: gzip.compress(STREAM),
    ImageFormat.BZIP2: bz2.compress(STREAM),
    ImageFormat.XZ: lzma.compress(STREAM),
    ImageFormat.LZOP: bytes.fromhex("894c5a4f000d0a1a0a1030"),
    ImageFormat.ZSTD: bytes.fromhex("28b52ffd0458"),
    ImageFormat.SPARSE: STREAM,
}


@pytest.mark.parametrize("image_format", ImageFormat)
def test_each_format_knows_its_own(image_format: ImageFormat) -> None:
    """What the format's program writes is taken, anything else refused with its place."""
    check_beginning(BEGINNINGS[image_format][:BEGINNING_SIZE], image_format, path="a.save", offset=92)

    with pytest.raises(ImageFormatError, match="memory at byte 92 begins with"):
        check_beginning(b"nonsense" * 2, image_format, path="a.save", offset=92)
