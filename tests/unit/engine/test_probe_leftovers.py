"""The trial file of preflight: nothing is left of it, even by an engine that is killed while it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.directio.probe import PROBE_PREFIX, probe_direct_io
from engine.directio.target import DirectFile
from engine.flags import BypassPolicy
from engine.hypervisor.port import Hypervisor
from engine.recover import recover


def _no_hypervisor() -> Hypervisor:
    raise AssertionError("no guest has to be looked at")


def test_trial_file_has_no_name_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing and syncing is what takes time, so that is when a kill strikes."""
    seen: list[list[Path]] = []
    real = DirectFile.write_at

    def look(file: DirectFile, data: memoryview, offset: int) -> None:
        seen.append(list(tmp_path.iterdir()))
        real(file, data, offset)

    monkeypatch.setattr(DirectFile, "write_at", look)

    assert probe_direct_io(tmp_path, BypassPolicy.PREFER) > 0

    assert seen == [[]]


def test_recovery_removes_trial_files_alone(tmp_path: Path) -> None:
    """One that was left in the instant in which it had a name goes; what looks like it but is not, stays."""
    (tmp_path / f"{PROBE_PREFIX}00ff").write_bytes(b"x")
    for kept in ("guest.save", ".fleetsaved"):
        (tmp_path / kept).write_bytes(b"x")

    assert recover(tmp_path / "run", [tmp_path], _no_hypervisor) == []

    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [".fleetsaved", "guest.save"]
