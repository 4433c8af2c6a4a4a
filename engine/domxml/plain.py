"""Take values from JSON that somebody else wrote, or refuse them with a ValueError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return an object."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _refused(value, "object")
    return value


def as_list(value: object) -> Sequence[Any]:
    """Return a list."""
    if not isinstance(value, list | tuple):
        raise _refused(value, "list")
    return value


def as_text(value: object) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise _refused(value, "text")
    return value


def as_texts(value: object) -> tuple[str, ...]:
    """Return a list of texts."""
    return tuple(as_text(item) for item in as_list(value))


def as_bool(value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise _refused(value, "true or false")
    return value


def to_plain(value: object) -> Any:
    """Return the same value as JSON gives it back: tuples and other sequences as lists."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def _refused(value: object, wanted: str) -> ValueError:
    return ValueError(f"{repr(value)[:80]} where {wanted} should be")
