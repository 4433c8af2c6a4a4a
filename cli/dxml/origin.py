"""Read domain XML from wherever it is: a file, standard input, a save image, a restore point."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from engine.domxml.document import XML_SIZE_MAX
from engine.errors import DomainXmlError, StorageError
from engine.examine import image_dumpxml

#: What every save image begins with, finished or not.
_IMAGE_BEGINS: Final = b"LibvirtQemud"


def name_of(path: Path) -> str:
    """Return what errors call a path."""
    return "standard input" if str(path) == "-" else str(path)


def read_domain_xml(path: Path) -> str:
    """Return the domain XML of a path, to the character as it is there, passwords and all.

    Args:
        path: a file of XML, - for standard input, a save image, or the directory of a restore point.

    Raises:
        StorageError: it cannot be read.
        DomainXmlError: too large, or no text.
        ImageFormatError, ImageIncompleteError: it is an image, but not a whole one.
    """
    if path.is_dir():
        return image_dumpxml(path, security_info=True)
    data = read_bounded(path, XML_SIZE_MAX, "domain XML")
    if data.startswith(_IMAGE_BEGINS):
        return image_dumpxml(path, security_info=True)
    if len(data) > XML_SIZE_MAX:
        raise DomainXmlError(name_of(path), "too large for domain XML", f"at most {XML_SIZE_MAX} bytes")
    return decode(data, path, "domain XML")


def read_bounded(path: Path, size_max: int, what: str) -> bytes:
    """Return what a file begins with: one byte more than it may have, at most.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with click.open_file(str(path), "rb") as opened:
            return bytes(opened.read(size_max + 1))
    except OSError as error:
        raise StorageError(
            name_of(path), error.strerror or str(error), f"a readable file of {what}"
        ) from error


def decode(data: bytes, path: Path, what: str) -> str:
    """Return bytes as text.

    Raises:
        DomainXmlError: they are none.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DomainXmlError(name_of(path), f"no UTF-8: {error}", what) from error
