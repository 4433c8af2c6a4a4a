from pathlib import Path

import pytest

from cli.sandbox import Sandbox, SandboxError


@pytest.mark.parametrize("name", ["", "Alpha", "al pha", "al-pha", "averyverylongname", "../alpha", "boot"])
def test_bad_host_name_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    """Host names become names of users, folders and sockets."""
    with pytest.raises(SandboxError, match="host name"):
        Sandbox((name,), parent=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_equal_host_names_are_refused(tmp_path: Path) -> None:
    """The second would fail half-way, at its user."""
    with pytest.raises(SandboxError, match="not all different"):
        Sandbox(("alpha", "alpha"), parent=tmp_path)


def test_without_root_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making users takes root; nothing is tried without."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(SandboxError, match="run it as root"):
        Sandbox(("alpha",), parent=tmp_path)

    assert list(tmp_path.iterdir()) == []
