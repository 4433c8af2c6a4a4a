import os
from pathlib import Path

import pytest

from cli.local import default_uri, runtime_dir


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
