from typing import Any

import click
import pytest

from cli.command import Command
from cli.main import fleetsave
from cli.options import bandwidth_option, compress_option, given, guest_pause_option


@click.command(cls=Command)
@compress_option
@bandwidth_option
@guest_pause_option
def probe(**options: Any) -> dict[str, Any]:
    """Return what was parsed."""
    return options


def parse(*words: str) -> dict[str, Any]:
    """Return the options of a command line, as the engine will be asked for them."""
    with probe.make_context("probe", list(words)) as context:
        return {key: value for key, value in context.params.items() if key != "as_json"}


def test_options_are_read_as_operators_write_them() -> None:
    """Bytes per second, seconds; what was not given is not told to anybody."""
    read = parse("--compress", "zstd:9", "--bandwidth", "400MiB/s", "--max-guest-pause", "500ms")

    assert read == {"compress": "zstd:9", "bandwidth": 400 * 2**20, "max_guest_pause": 0.5}
    assert given(**parse()) == {}


@pytest.mark.parametrize(
    "words",
    [
        ("--compress", "zstd:99"),
        ("--compress", "gzip"),
        ("--bandwidth", "0"),
        ("--bandwidth", "fast"),
        ("--bandwidth", "9999TiB"),
        ("--max-guest-pause", "0s"),
        ("--max-guest-pause", "2h"),
        ("--max-guest-pause", "soon"),
    ],
)
def test_nonsense_is_a_usage_error_that_shows_it(words: tuple[str, str]) -> None:
    """Before anybody is asked anything."""
    with pytest.raises(click.BadParameter, match=words[1]):
        parse(*words)


@pytest.mark.parametrize("name", ["save", "checkpoint", "dump", "managed-save", "start", "doctor"])
def test_command_is_there_and_loads(name: str) -> None:
    """Each operation of the engine has its command."""
    with click.Context(fleetsave) as context:
        assert fleetsave.get_command(context, name) is not None
