from pathlib import Path

import pytest

from engine.findings import Finding
from engine.host import survey_host
from tests.data.dead_engine import leave_image

URI = "test:///default"


def survey(tmp_path: Path, store: Path | None, uri: str = URI) -> dict[str, Finding]:
    """Return the findings by name."""
    return {one.name: one for one in survey_host(uri, runtime_dir=tmp_path / "run", store=store)}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give a private store."""
    made = tmp_path / "store"
    made.mkdir(mode=0o700)
    return made


def test_survey_changes_nothing(tmp_path: Path, store: Path) -> None:
    """Leftovers are named and left; no runtime directory is made."""
    staging = leave_image(store, "0123")

    found = survey(tmp_path, store)

    assert found["leftovers"].error is not None
    assert str(staging) in found["leftovers"].detail
    assert "--fix" in found["leftovers"].error.hint
    assert (staging / "memory.save").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_host_without_a_store_is_warned_about(tmp_path: Path) -> None:
    """Saves need a path of their own then, which is nobody's mistake."""
    found = survey(tmp_path, None)

    assert found["store"].is_warning
    assert all(one.error is None for one in found.values())


def test_store_open_to_others_is_no_place_for_memory(tmp_path: Path, store: Path) -> None:
    """Guests' memory holds secrets; the hint is the command that helps."""
    store.chmod(0o755)

    error = survey(tmp_path, store)["store"].error

    assert error is not None
    assert error.hint == f"chmod 700 {store}"


def test_rest_is_looked_at_where_libvirt_does_not_answer(tmp_path: Path, store: Path) -> None:
    """One thing in the way hides no other."""
    found = survey(tmp_path, store, "qemu+unix:///session?socket=/nonexistent")

    assert found["libvirt"].error is not None
    assert found["libvirt"].error.exit_code == 30
    assert {"store", "space", "runtime directory", "leftovers"} <= found.keys()
