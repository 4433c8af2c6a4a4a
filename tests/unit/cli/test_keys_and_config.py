import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.keys import read_public_key, read_signing_key


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a directory, with settings of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLEETSAVE_")}
    root = str(Path(__file__).resolve().parents[3])
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        env=kept | {"PYTHONPATH": root} | environment, cwd=folder, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_key_is_made_and_shown(tmp_path: Path) -> None:
    """What is printed may be seen by anybody; what is secret stays in its file."""
    made = run(tmp_path, "keys", "generate", "--name", "control-2026", "--json")
    document = json.loads(made.stdout)
    private, public = tmp_path / "control-2026.key", tmp_path / "control-2026.pub"
    key = read_signing_key(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert document == {
        "key_id": "control-2026",
        "private_file": "control-2026.key",
        "public_file": "control-2026.pub",
        "public_key": key.public.text,
    }
    secret = private.read_text().split()[1]
    for file in (private, public):
        shown = run(tmp_path, "keys", "show", str(file))
        assert key.public.text in shown.stdout
        assert f'"control-2026" = "{key.public.text}"' in shown.stdout
        assert secret not in shown.stdout + made.stdout
    assert read_public_key(public) == key.public


def test_key_is_not_made_twice(tmp_path: Path) -> None:
    """Exit code 20; the first one stays."""
    assert run(tmp_path, "keys", "generate", "--name", "k").returncode == 0
    before = (tmp_path / "k.key").read_text()
    again = run(tmp_path, "keys", "generate", "--name", "k")
    assert (again.returncode, again.stderr.count("\n")) == (20, 1)
    assert (tmp_path / "k.key").read_text() == before
    assert run(tmp_path, "keys", "generate", "--name", "a/b").returncode == 2
    assert run(tmp_path, "keys", "show", "none.pub").returncode == 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give settings with secrets in them."""
    path = tmp_path / "fleetsave.toml"
    (tmp_path / "password").write_text("broker-secret")
    path.write_text(f"""
    broker_url = "redis://broker:6379/1"
    catalog_url = "postgresql+psycopg://fleetsave:catalog-secret@db/fleetsave"
    [broker]
    username = "control"
    password_file = "{tmp_path}/password"
    [host]
    name = "alpha"
    """)
    return path


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_settings_are_shown_without_secrets(tmp_path: Path, file: Path, form: tuple[str, ...]) -> None:
    """Defaults, file and environment together; the words that follow a colon are nobody's business."""
    shown = run(tmp_path, "config", "show", *form, FLEETSAVE_CONFIG=str(file), FLEETSAVE_HOST__PARALLEL="7")
    assert shown.returncode == 0, shown.stderr
    assert "secret" not in shown.stdout
    if form:
        document = json.loads(shown.stdout)
        assert (document["host"]["name"], document["host"]["parallel"]) == ("alpha", 7)
        assert document["host"]["metrics_port"] == 9472
        assert document["broker_url"] == "redis://***@broker:6379/1"
    else:
        lines = shown.stdout.splitlines()
        assert 'host.name = "alpha"' in lines
        assert "host.parallel = 7" in lines
        assert 'catalog_url = "postgresql+psycopg://***@db/fleetsave"' in lines


def test_right_settings_are_called_right(tmp_path: Path, file: Path) -> None:
    """And whom this machine believes is said."""
    assert run(tmp_path, "keys", "generate", "--name", "control-2026").returncode == 0
    with file.open("a") as opened:
        opened.write(f'\n[trust]\nkeys_dir = "{tmp_path}"\n')
    done = run(tmp_path, "config", "check", "--config", str(file), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"right": True, "host": "alpha", "trusted_keys": ["control-2026"]}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[host]\nparallels = 2", "host.parallels"),
        ("[host]\nparallel = 0", "host.parallel"),
        ("signing_key = '/nonexistent/k.key'", "/nonexistent/k.key"),
        ("[trust]\nkeys_dir = '/nonexistent'", "/nonexistent"),
        ("[trust.keys]\nk = 'x'", "trust.keys"),
        ("broker_url = 'amqp://u:pw-secret@x'", "broker_url"),
    ],
)
def test_wrong_key_is_named(tmp_path: Path, text: str, key: str) -> None:
    """Exit code 2, one line, no secret."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    done = run(tmp_path, "config", "check", "--config", str(file))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert key in done.stderr
    assert "secret" not in done.stderr
