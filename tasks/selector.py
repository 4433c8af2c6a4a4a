"""Choose domains by what somebody wrote: names, globs, tags, hosts, and exceptions.

Each word adds domains, one that begins with ! takes some away; the order of the words means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol

WORDS_MAX: Final = 10_000
WORD_LENGTH_MAX: Final = 300
#: The word that means every domain.
ALL: Final = "@all"
_HOST: Final = "@host:"
_TAG: Final = "@tag:"
_GLOB: Final = re.compile(r"[*?\[]")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/]")


class Candidate(Protocol):
    """A domain that may be chosen; `DomainView` is one."""

    @property
    def host(self) -> str:
        """The host it is on."""

    @property
    def name(self) -> str:
        """The domain's name."""

    @property
    def uuid(self) -> str:
        """The domain's UUID."""

    @property
    def tags(self) -> Sequence[str]:
        """Its tags."""


def check_selector(words: Sequence[object]) -> None:
    """Refuse words that can mean nothing.

    Raises:
        ValueError: the sentence names the word.
    """
    if len(words) > WORDS_MAX:
        message = f"{len(words)} words should be at most {WORDS_MAX}"
        raise ValueError(message)
    for word in words:
        if not isinstance(word, str) or not 0 < len(word) <= WORD_LENGTH_MAX or _UNPRINTABLE.search(word):
            message = f"{str(word)[:50]!r} should be up to {WORD_LENGTH_MAX} printable characters, no slash"
            raise ValueError(message)
        text = word.removeprefix("!")
        is_known = text == ALL or any(text.startswith(mark) and text != mark for mark in (_HOST, _TAG))
        if not text or text.startswith("!") or (text.startswith("@") and not is_known):
            message = f"{word!r} should be a name, a glob, {ALL}, {_HOST}NAME or {_TAG}NAME"
            raise ValueError(message)


def is_pattern(word: str) -> bool:
    """Tell whether the word may mean any number of domains; a plain name or UUID means one."""
    return word.startswith("@") or _GLOB.search(word) is not None


def matches(words: Iterable[str], domain: Candidate) -> bool:
    """Tell whether the words choose the domain."""
    chosen = False
    for word in words:
        if word.startswith("!"):
            if _is_meant(word[1:], domain):
                return False
        elif not chosen:
            chosen = _is_meant(word, domain)
    return chosen


def _is_meant(word: str, domain: Candidate) -> bool:
    """Tell whether one word means the domain."""
    if word == ALL:
        return True
    if word.startswith(_HOST):
        return fnmatchcase(domain.host, word.removeprefix(_HOST))
    if word.startswith(_TAG):
        return word.removeprefix(_TAG) in domain.tags
    return fnmatchcase(domain.name, word) or (domain.uuid != "" and word.lower() == domain.uuid)
