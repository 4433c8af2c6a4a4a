import os
from pathlib import Path

import pytest

from cli.local import default_uri, directories_of, runtime_dir
from cli.order import Order


def test_uri_of_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for virsh."""
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu+ssh://far/system")

    assert default_uri() == "qemu+ssh://far/system"


@pytest.mark.parametrize(("uid", "uri"), [(0, "qemu:///system"), (1000, "qemu:///session")])
def test_uri_fits_the_user(monkeypatch: pytest.MonkeyPatch, uid: int, uri: str) -> None:
    """Root manages the system's guests, everybody else their own."""
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert default_uri() == uri


def test_root_shares_the_worker_s_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock on a domain lies there: a job and a local command never hold one domain both."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert runtime_dir() == Path("/run/fleetsave")


def test_runtime_directory_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the session keeps such things, else in the user's cache."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert runtime_dir() == Path("/run/user/1000/fleetsave")

    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_dir() == Path("/home/u/.cache/fleetsave/run")


def test_all_places_of_an_order_are_looked_at(tmp_path: Path) -> None:
    """The directory of a file; of a restore point its store, too, where a copy of its image is staged."""
    point = tmp_path / "store" / "uuid" / "point"
    point.mkdir(parents=True)

    restored = directories_of(Order(op="restore", params={"path": str(point)}, is_local=True))
    saved = directories_of(Order(op="save", domains=("a",), params={"to": "/srv/a.save"}, is_local=True))

    assert restored == [tmp_path / "store", tmp_path / "store" / "uuid"]
    assert saved == [Path("/srv")]
