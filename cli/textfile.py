"""Read a file of text that a person named: bounded, and with an error that says which it was."""

from __future__ import annotations

from pathlib import Path

import click

from engine.errors import DomainXmlError, StorageError


def name_of(path: Path) -> str:
    """Return what errors call a path."""
    return "standard input" if str(path) == "-" else str(path)


def read_text(file: Path, *, what: str, size_max: int, option: str = "", hint: str = "") -> str:
    """Return the text of a file, of standard input for "-".

    Args:
        file: as it was given.
        what: it should hold, such as "domain XML".
        size_max: bytes.
        option: that named it, for errors; empty for an argument.
        hint: what to do about text that is none.

    Raises:
        StorageError: it cannot be read.
        DomainXmlError: too large, or no text.
    """
    where = f"{option} {name_of(file)}".strip()
    return decode(read_bounded(file, size_max, what, where), where, what=what, size_max=size_max, hint=hint)


def read_bounded(file: Path, size_max: int, what: str, where: str) -> bytes:
    """Return what a file begins with: one byte more than it may have, at most.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with click.open_file(str(file), "rb") as opened:
            return bytes(opened.read(size_max + 1))
    except OSError as error:
        raise StorageError(where, error.strerror or str(error), f"a readable file of {what}") from error


def decode(data: bytes, where: str, *, what: str, size_max: int, hint: str = "") -> str:
    """Return bytes as text.

    Raises:
        DomainXmlError: too many, or no text.
    """
    if len(data) > size_max:
        raise DomainXmlError(where, f"too large for {what}", f"at most {size_max} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DomainXmlError(where, f"no UTF-8: {error}", what, hint) from error
