"""Read the engine's event file while it is being written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog

#: Bytes read at a time.
_CHUNK_SIZE: Final = 1024 * 1024
#: Bytes of one line; a longer one is no event.
_LINE_SIZE_MAX: Final = 16 * 1024 * 1024

_log: Final = structlog.get_logger(__name__)


class EventFile:
    """The JSON lines that one engine has written so far.

    Args:
        path: the file; it need not exist yet.
        offset: bytes to pass over, the end of a line.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset

    def read_new(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the events that were written since the last call, each with the offset of its end.

        A line without its end is left for later; one that is no event is passed over.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            rest = b""
            while chunk := file.read(_CHUNK_SIZE):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._offset += len(line) + 1
                    event = _parse_line(line)
                    if event is not None:
                        yield event, self._offset
                if len(rest) > _LINE_SIZE_MAX:
                    self._offset += len(rest)
                    rest = b""


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the event in the line, if it is one."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and isinstance(event.get("event"), str):
        return event
    _log.warning("engine wrote no event", line=line[:200].decode(errors="replace"))
    return None
