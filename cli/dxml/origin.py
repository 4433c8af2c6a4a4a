"""Read domain XML from wherever it is: a file, standard input, a save image, a restore point."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cli.textfile import decode, name_of, read_bounded
from engine.domxml.document import XML_SIZE_MAX
from engine.examine import image_dumpxml

#: What every save image begins with, finished or not.
_IMAGE_BEGINS: Final = b"LibvirtQemud"
_WHAT: Final = "domain XML"


def read_domain_xml(path: Path) -> tuple[str, bool]:
    """Return the domain XML of a path, to the character as it is there, and whether an image holds it.

    Passwords are in it.

    Args:
        path: a file of XML, - for standard input, a save image, or the directory of a restore point.

    Raises:
        StorageError: it cannot be read.
        DomainXmlError: too large, or no text.
        ImageFormatError, ImageIncompleteError: it is an image, but not a whole one.
    """
    if path.is_dir():
        return image_dumpxml(path, security_info=True), True
    data = read_bounded(path, XML_SIZE_MAX, _WHAT, name_of(path))
    if data.startswith(_IMAGE_BEGINS):
        return image_dumpxml(path, security_info=True), True
    return decode(data, name_of(path), what=_WHAT, size_max=XML_SIZE_MAX), False
