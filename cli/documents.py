"""Read files of domain XML that are given on the command line, never more than such a file may hold."""

from __future__ import annotations

from pathlib import Path

import click

from engine.domxml.document import XML_SIZE_MAX
from engine.errors import DomainXmlError, StorageError


def read_document(file: Path, *, where: str = "", size_max: int = XML_SIZE_MAX) -> str:
    """Return the text of a file of domain XML, or of standard input for "-".

    Args:
        file: what to read.
        where: what errors call it; the file's name unless told.
        size_max: bytes it may have.

    Raises:
        StorageError: it cannot be read.
        DomainXmlError: too large to be domain XML, or no text.
    """
    where = where or ("standard input" if str(file) == "-" else str(file))
    try:
        with click.open_file(str(file), "rb") as opened:
            data = bytes(opened.read(size_max + 1))
    except OSError as error:
        raise StorageError(where, error.strerror or str(error), "a readable file of domain XML") from error
    if len(data) > size_max:
        raise DomainXmlError(where, "too large for domain XML", f"at most {size_max} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DomainXmlError(where, f"no UTF-8: {error}", "domain XML", "virsh dumpxml shows one") from error
