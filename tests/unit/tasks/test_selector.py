from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.selector import check_selector, is_pattern, matches


@dataclass(frozen=True)
class Domain:
    """A domain that may be chosen."""

    name: str = "web-1"
    host: str = "alpha"
    uuid: str = "11111111-2222-3333-4444-555555555555"
    tags: tuple[str, ...] = ("prod",)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["web-1"], True),
        (["web-2"], False),
        (["web-*"], True),
        (["web-?"], True),
        (["web-[2-9]"], False),
        (["WEB-1"], False),
        (["11111111-2222-3333-4444-555555555555"], True),
        (["@all"], True),
        (["@host:alpha"], True),
        (["@host:al*"], True),
        (["@host:beta"], False),
        (["@tag:prod"], True),
        (["@tag:pro*"], False),
        (["@tag:dev", "web-*"], True),
        (["@all", "!web-1"], False),
        (["!web-*", "@all"], False),
        (["@all", "!db-*"], True),
        (["@all", "!@tag:prod"], False),
        (["!db-*"], False),
        ([], False),
    ],
)
def test_words_choose(words: list[str], chosen: bool) -> None:
    """Each adds, ! takes away, in whatever order."""
    assert matches(words, Domain()) == chosen
    assert matches(list(reversed(words)), Domain()) == chosen


@pytest.mark.parametrize(
    "word", ["", "!", "@", "@host:", "@tag:", "@everything", "a/b", "a\nb", "x" * 301, 1, None, "!!@x"]
)
def test_words_that_mean_nothing_are_refused(word: object) -> None:
    """A typing mistake must not choose every domain, or none."""
    with pytest.raises(ValueError, match="should be"):
        check_selector([word])


@given(st.lists(st.text(max_size=8)))
def test_any_words_are_refused_or_choose(words: list[str]) -> None:
    """Nothing but a ValueError comes out, and what is excluded is never chosen."""
    try:
        check_selector(words)
    except ValueError:
        return
    assert not matches([*words, "!web-1"], Domain())


def test_patterns_are_told_from_names() -> None:
    """A name means one domain, or is a mistake."""
    assert [word for word in ("web-1", "web-*", "a?", "[ab]", "@all", "@tag:x") if is_pattern(word)] == [
        "web-*", "a?", "[ab]", "@all", "@tag:x",
    ]  # fmt: skip
