from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.units import GiB, KiB, MiB, format_size, parse_seconds, parse_size, round_up


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("4k", 4 * KiB),
        ("4KiB", 4 * KiB),
        ("400MiB/s", 400 * MiB),
        (" 1.5 G ", 3 * GiB // 2),
        ("2tib", 2048 * GiB),
        ("100MB/s", 100_000_000),
        ("1gb", 10**9),
    ],
)
def test_sizes_are_read_as_operators_write_them(text: str, size: int) -> None:
    """Binary units by default, decimal ones where asked for, rates too."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1 2", "1e3", "1MiBs", "0x10", "1,5G", "inf", "nan", "9" * 400]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """A text that is no size is a ValueError that shows it."""
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    """Nothing else is raised, and no size is negative."""
    with suppress(ValueError):
        assert parse_size(text) >= 0


@given(st.integers(0, 2**60))
def test_shown_size_is_close(size: int) -> None:
    """What is shown reads back to within one digit of the truth."""
    assert abs(parse_size(format_size(size)) - size) <= size * 0.06


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * MiB, "1.5 GiB"), (3 << 41, "6.0 TiB")],
)
def test_size_is_shown_short(size: int, text: str) -> None:
    """The unit keeps the number short."""
    assert format_size(size) == text


@given(st.integers(0, 2**60), st.sampled_from([1, 512, 4096, 65536]))
def test_rounding_up_is_least(size: int, block_size: int) -> None:
    """The least multiple that is not smaller."""
    rounded = round_up(size, block_size)

    assert rounded % block_size == 0
    assert 0 <= rounded - size < block_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), ("2s", 2.0), ("500ms", 0.5), ("1.5 min", 90.0), ("2m", 120.0), ("1h", 3600.0)],
)
def test_durations_are_read_as_operators_write_them(text: str, seconds: float) -> None:
    """Seconds where no unit is given."""
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "2 weeks", "1e3", "inf", "nan", "9" * 400])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A text that is no duration is a ValueError that shows it."""
    with pytest.raises(ValueError, match="is no duration"):
        parse_seconds(text)
