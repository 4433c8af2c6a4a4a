import os
from pathlib import Path

import pytest

from tasks.config import (
    HostSettings,
    default_managed_save_dir,
    default_params,
    engine_environment,
    load_settings,
)
from tasks.errors import ConfigError
from tasks.limits import Deadlines


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting of the developer's shell in."""
    for name in list(os.environ):
        if name.startswith("FLEETSAVE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a complete settings file."""
    path = tmp_path / "fleetsave.toml"
    path.write_text("""
broker_url = "redis://:secret@broker:6379/1"
[host]
name = "alpha"
store = "/srv/store"
allowed_roots = ["/srv/images"]
parallel = 4
[tags]
web-1 = ["prod", "eu"]
""")
    return path


def test_file_is_read_and_defaults_fill_the_rest(file: Path) -> None:
    """The store is one of the roots."""
    settings = load_settings(file)
    assert settings.broker_url == "redis://:secret@broker:6379/1"
    assert (settings.host.name, settings.host.parallel, settings.host.uri) == ("alpha", 4, "qemu:///system")
    assert settings.host.roots == (Path("/srv/images"), Path("/srv/store"))
    assert settings.tags == {"web-1": ("prod", "eu")}


def test_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key; its neighbours stay."""
    monkeypatch.setenv("FLEETSAVE_CONFIG", str(file))
    monkeypatch.setenv("FLEETSAVE_HOST__PARALLEL", "7")
    monkeypatch.setenv("FLEETSAVE_HOST__ALLOWED_ROOTS", '["/a"]')
    settings = load_settings()
    assert (settings.host.name, settings.host.parallel) == ("alpha", 7)
    assert settings.host.allowed_roots == (Path("/a"),)


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("brokr_url = 'redis://x'", "brokr_url", "unknown key"),
        ("broker_url = 'amqp://user:secret@x'", "broker_url", "'amqp:...'"),
        ("[host]\nparallel = 0", "host.parallel", "is 0"),
        ("[host]\nname = 'a/b'", "host.name", "is 'a/b'"),
        ("[host]\nstore = 'relative'", "host.store", "is 'relative'"),
        ("[host]\nallowed_roots = ['relative']", "host", "relative"),
        ("[host", "", "TOML"),
    ],
)
def test_wrong_setting_names_file_key_and_values(tmp_path: Path, text: str, where: str, found: str) -> None:
    """What is, what should be; a password in an URL is not shown."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert str(file) in caught.value.where
    assert where in caught.value.where
    assert found in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """The file is not to blame."""
    monkeypatch.setenv("FLEETSAVE_HOST__METRICS_PORT", "many")
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert caught.value.where == "environment FLEETSAVE_HOST__METRICS_PORT"


def test_file_that_was_named_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A typing mistake must not mean the defaults."""
    monkeypatch.setenv("FLEETSAVE_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="no such file"):
        load_settings()


def test_engine_gets_the_environment_without_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may hold passwords, and the engine reads none."""
    monkeypatch.setenv("FLEETSAVE_BROKER_URL", "redis://:secret@x")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    environment = engine_environment()
    assert environment["XDG_RUNTIME_DIR"] == "/run/user/7"
    assert "FLEETSAVE_BROKER_URL" not in environment


def test_host_name_defaults_to_this_machine() -> None:
    """So that a fresh installation works."""
    import socket

    assert HostSettings().name == socket.gethostname()


def test_managed_save_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known for this machine's libvirt, unknown for any other: a wrong one would measure wrong files."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/u/cfg")
    assert default_managed_save_dir("qemu:///session") == Path("/home/u/cfg/libvirt/qemu/save")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert default_managed_save_dir("qemu:///session?socket=/x") == Path("/home/u/.config/libvirt/qemu/save")
    assert default_managed_save_dir("qemu+ssh://far/system") is None
    assert default_managed_save_dir("test:///default") is None


def test_managed_save_directory_that_is_not_ours_to_read_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The guest would be saved and the command would then fail on measuring the image."""
    monkeypatch.setattr(os, "access", lambda *_: False)

    assert default_managed_save_dir("qemu:///system") is None


def test_limits_deadlines_and_defaults_are_read(tmp_path: Path) -> None:
    """Times as people write them; what is not said is not there."""
    path = tmp_path / "fleetsave.toml"
    path.write_text("""
[host]
limits = { save = 1, restore = 2 }
[host.deadlines.save]
max_queue_wait = "2h"
max_stall = 90
[defaults.checkpoint]
retry = { attempts = 3, backoff = "1m" }
max_duration = "1h"
""")
    settings = load_settings(path)
    assert settings.host.limits == {"save": 1, "restore": 2}
    assert settings.host.find_deadlines("save") == Deadlines(max_queue_wait=7200, max_stall=90)
    assert settings.host.find_deadlines("dump") == Deadlines()
    assert default_params(settings, "checkpoint") == {
        "retry": {"attempts": 3, "backoff": 60.0}, "max_duration": 3600.0,
    }  # fmt: skip
    assert default_params(settings, "save") == {}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[host.limits]\nwipe = 1", "wipe"),
        ("[host.limits]\nsave = 0", "host.limits.save"),
        ("[host.deadlines.save]\nmax_stall = 'soon'", "max_stall"),
        ("[host.deadlines.save]\nmax_nap = 1", "max_nap"),
        ("[defaults.save]\nretry = { attempts = 0 }", "attempts"),
        ("[host]\nname = 'a.restore'", "host.name"),
    ],
)
def test_wrong_limits_are_named(tmp_path: Path, text: str, where: str) -> None:
    """File and key."""
    path = tmp_path / "fleetsave.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=where):
        load_settings(path)
