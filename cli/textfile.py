"""Read a file of text that a person named: bounded, and with an error that says which option it was."""

from __future__ import annotations

from pathlib import Path

import click

from engine.errors import DomainXmlError, StorageError


def read_text(file: Path, *, where: str, what: str, size_max: int, hint: str = "") -> str:
    """Return the text of a file, of standard input for "-".

    Args:
        file: as it was given.
        where: named in errors, such as "--dxml new.xml".
        what: it should hold, such as "domain XML".
        size_max: bytes.
        hint: what to do about text that is none.

    Raises:
        StorageError: it cannot be read.
        DomainXmlError: too large, or no text.
    """
    try:
        with click.open_file(str(file), "rb") as opened:
            data = opened.read(size_max + 1)
    except OSError as error:
        raise StorageError(where, error.strerror or str(error), f"a readable file of {what}") from error
    if len(data) > size_max:
        raise DomainXmlError(where, f"too large for {what}", f"at most {size_max} bytes")
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise DomainXmlError(where, f"no UTF-8: {error}", what, hint) from error
