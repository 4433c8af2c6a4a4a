import pytest

from engine.errors import ImageFormatError, ImageIncompleteError
from engine.image.header import HEADER_SIZE, MAGIC_DONE, parse_header


@pytest.mark.parametrize("size", [16, 50, HEADER_SIZE - 1])
def test_image_that_ends_inside_its_header_is_incomplete(size: int) -> None:
    """It says what it is: somebody cut it, and another restore point may be whole."""
    with pytest.raises(ImageIncompleteError, match=f"{size} bytes long"):
        parse_header((MAGIC_DONE + bytes(HEADER_SIZE))[:size], path="cut.save")


@pytest.mark.parametrize("data", [b"", MAGIC_DONE[:15], b"x" * (HEADER_SIZE - 1)])
def test_short_file_without_the_mark_is_no_image(data: bytes) -> None:
    """Nothing says that it ever was one."""
    with pytest.raises(ImageFormatError):
        parse_header(data, path="letter.txt")
