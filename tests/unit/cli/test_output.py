import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.output import (
    format_age,
    format_bytes,
    format_rate,
    format_seconds,
    format_time,
    name_point,
    print_json,
    print_table,
)

NOW = datetime(2026, 1, 31, 22, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 ms"), (0.0849, "85 ms"), (1.94, "1.9 s"), (250, "4 min 10 s"), (7260, "2 h 1 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    """A duration is as exact as somebody can use it."""
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (172_800, "2 d")]
)
def test_ages(seconds: int, text: str) -> None:
    """Clocks of hosts may be ahead of ours; nothing is younger than now."""
    assert format_age(NOW - timedelta(seconds=seconds), NOW) == text


def test_what_is_unknown_is_shown_as_such() -> None:
    """Nothing that was not measured looks like a measured zero."""
    assert (format_bytes(None), format_rate(None), format_time(None), format_age(None, NOW)) == (
        "-",
        "-",
        "-",
        "never",
    )
    assert (format_bytes(0), format_rate(2048)) == ("0 B", "2.0 KiB/s")


def test_restore_points_go_by_their_names_and_files_by_their_paths() -> None:
    """What the tables print is what restore takes."""
    name = "20260131T220000Z-7f7f7f7f7f7f7f7f"

    assert name_point(f"/store/some-uuid/{name}") == name
    assert name_point("/srv/images/web-1.save") == "/srv/images/web-1.save"


def test_json_document_has_times_and_paths_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """One document on stdout, and any JSON reader takes it."""
    print_json({"at": NOW, "path": Path("/a"), "roots": ("b", "a"), "set": {"y", "x"}})

    assert json.loads(capsys.readouterr().out) == {
        "at": "2026-01-31T22:00:00+00:00",
        "path": "/a",
        "roots": ["b", "a"],
        "set": ["x", "y"],
    }


def test_table_in_a_pipe_is_neither_cut_nor_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    """Grep and awk see whole words; what looks like markup stays as it is."""
    long = "x" * 300

    print_table(("domain", "state"), [("[red]web-1[/red]", "failed (33)"), (long, "succeeded")])

    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[red]web-1[/red]" in printed
    assert long in printed
