import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from cli.command import Group
from cli.main import fleetsave


def _run(*words: str, code: str = "from cli.main import main; main()") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False
    )


def _walk(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _walk(child, *path, name)


ALL = dict(_walk(fleetsave))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_help_has_examples_that_begin_with_its_command(path: tuple[str, ...]) -> None:
    """Nobody needs the manual for the first use of a command."""
    command = ALL[path]
    with click.Context(command, info_name="fleetsave") as context:
        text = command.get_help(context)

    examples = text.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(line.strip().startswith(" ".join(("fleetsave", *path))) for line in examples)


@pytest.mark.parametrize(
    "path", [path for path, command in ALL.items() if not isinstance(command, Group)], ids=" ".join
)
def test_every_command_takes_json_and_debug(path: tuple[str, ...]) -> None:
    """--json on every command."""
    names = {name for parameter in ALL[path].params for name in parameter.opts}

    assert {"--json", "--debug"} <= names


def test_help_loads_nothing_heavy() -> None:
    """`fleetsave --help` answers at once: no Celery, no database, no settings, no tables."""
    heavy = ("celery", "kombu", "redis", "sqlalchemy", "pydantic", "rich", "prometheus_client")
    code = f"""
import sys
from cli.main import main
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
loaded = [name for name in {heavy!r} if name in sys.modules]
assert not loaded, loaded
"""

    done = _run(code=code)

    assert done.returncode == 0, done.stderr
    assert "managed-save" in done.stdout


@pytest.mark.parametrize(
    "words",
    [("save",), ("save", "a", "--bogus"), ("xsave", "a"), ("jobs", "list", "--limit", "0"), ("jobs", "nope"),
     ("save", "a", "b", "--to", "x"), ("save", "a", "--running", "--paused"), ("save", "a", "a", "--local")],
)  # fmt: skip
def test_usage_error_is_one_line_and_exit_code_2(words: tuple[str, ...]) -> None:
    """Not click's three lines; the help is named, not printed."""
    done = _run(*words)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("fleetsave: ")


def test_usage_error_with_json_is_the_one_document() -> None:
    """A program that asked for JSON gets it, whatever else it asked wrongly."""
    done = _run("save", "a", "--bogus", "--json")

    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout)["error"]["code"] == 2


def test_traceback_is_for_those_who_ask() -> None:
    """One line without --debug; with it, what a defect report needs, and the line last."""
    words = ("save", "a", "--running", "--paused", "--debug")

    done = _run(*words)

    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("fleetsave: ")


def test_command_alone_shows_its_help() -> None:
    """Whoever types only the name wants to know more; it is still no success."""
    done = _run()

    assert (done.returncode, done.stdout) == (2, "")
    assert "Examples:" in done.stderr


def test_wrong_settings_name_file_and_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A mistake in the settings is a usage error, not a defect."""
    config = tmp_path_factory.mktemp("settings") / "fleetsave.toml"
    config.write_text("[host]\nparallelism = 3\n")

    done = _run("worker", "--config", str(config))

    assert done.returncode == 2
    assert "parallelism" in done.stderr
    assert str(config) in done.stderr


def test_reader_that_leaves_early_hears_no_more() -> None:
    """`fleetsave ... | head` says nothing on stderr."""
    code = """
import os, sys
from cli.main import main
reading, writing = os.pipe()
os.dup2(writing, 1)
os.close(writing)
os.close(reading)
main(["--help"])
"""

    done = _run(code=code)

    assert (done.returncode, done.stderr) == (1, "")
