"""Identify the disks of a domain, so that a restore can tell whether they are still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lxml import etree


def identify_disks(root: etree._Element) -> list[dict[str, Any]]:
    """Return what can be said of each disk now: target, type, format, source, length, time of last change.

    For a file also size (bytes) and mtime_ns; a source that cannot be looked at has neither.
    """
    found = []
    for disk in root.iterfind("devices/disk"):
        target, source, driver = disk.find("target"), disk.find("source"), disk.find("driver")
        path = None if source is None else source.get("file") or source.get("dev")
        entry: dict[str, Any] = {
            "target": "" if target is None else target.get("dev", ""),
            "type": disk.get("type", ""),
            "device": disk.get("device", "disk"),
            "format": "" if driver is None else driver.get("type", ""),
            "path": path,
        }
        if path is not None:
            entry.update(_state_of(Path(path)))
        found.append(entry)
    return found


def _state_of(path: Path) -> dict[str, Any]:
    try:
        state = path.stat()
    except OSError as error:
        return {"unreadable": error.strerror}
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
