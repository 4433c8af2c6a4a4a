from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from engine.errors import BypassError, EngineError

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, EngineError) and value.__module__ == errors.__name__
]
#: DESIGN.md section 6, and libvirt's number for the same situation.
TABLE = {
    "EngineError": (1, 1, False),
    "InvalidArgumentError": (2, 8, False),
    "ImageFormatError": (10, 9, False),
    "DomainXmlError": (10, 27, False),
    "AbiError": (11, 67, False),
    "ImageIncompleteError": (12, 9, False),
    "ChecksumError": (13, 9, False),
    "StorageError": (20, 38, False),
    "TargetExistsError": (20, 38, False),
    "NoSpaceError": (21, 38, False),
    "BypassError": (22, 9, False),
    "PathNotAllowedError": (23, 88, False),
    "HypervisorError": (30, 1, False),
    "HypervisorUnreachableError": (30, 38, True),
    "GuestGoneError": (30, 1, False),
    "NoDomainError": (31, 42, False),
    "DomainBusyError": (32, 68, True),
    "WrongStateError": (33, 55, False),
    "StaleDiskError": (33, 55, False),
    "NotSupportedError": (34, 3, False),
    "ReadOnlyError": (35, 29, False),
    "TryAgainError": (75, 87, True),
    "UndecidedError": (75, 87, True),
    "CancelledError": (130, 78, False),
}


def test_codes_are_those_of_the_design() -> None:
    """Every class has the exit status, libvirt's number and the transience that the design gives it."""
    found = {
        kind.__name__: (kind.exit_code, kind.default_libvirt_code, kind.is_transient) for kind in CLASSES
    }

    assert found == TABLE


def test_two_classes_of_one_status_are_one_situation() -> None:
    """A status means one thing: those who share one are kinds of one another, or both a format."""
    shared = Counter(kind.exit_code for kind in CLASSES)

    for status in (status for status, count in shared.items() if count > 1):
        kinds = [kind for kind in CLASSES if kind.exit_code == status]
        is_family = any(all(issubclass(kind, base) for kind in kinds) for base in kinds)
        assert is_family or {kind.__name__ for kind in kinds} == {"ImageFormatError", "DomainXmlError"}


@pytest.mark.parametrize("kind", CLASSES)
def test_error_pickles(kind: type[EngineError]) -> None:
    """Sentence and fields survive the way through a queue, and a copy."""
    error = kind("/a/b", "is this", "that", "do so", 4242)
    if isinstance(error, BypassError):
        error.reason = "resident_pages"

    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(twin) is kind
        assert str(twin) == str(error) == "/a/b: is this, want that; do so"
        assert twin.to_dict() == error.to_dict()
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_error_as_json(kind: type[EngineError]) -> None:
    """The answer's "error" key has the shape that the design promises."""
    document = json.loads(json.dumps(kind("/a/b", "is this", "that", "do so").to_dict()))

    assert set(document) == {"class", "code", "libvirt_code", "message", "hint", "fields", "transient"}
    assert document["class"] == kind.__name__
    assert document["code"] == kind.exit_code
    assert document["libvirt_code"] == kind.default_libvirt_code
    assert document["message"] == "/a/b: is this, want that"
    assert document["hint"] == "do so"
    assert {"where": "/a/b", "found": "is this", "wanted": "that"}.items() <= document["fields"].items()
    assert document["transient"] is kind.is_transient


@given(st.tuples(*[st.text(max_size=60)] * 4), st.sampled_from(CLASSES))
def test_error_is_one_line(texts: tuple[str, str, str, str], kind: type[EngineError]) -> None:
    """Whatever the texts hold, the sentence has no line breaks."""
    error = kind(*texts)

    assert len(str(error).splitlines()) <= 1
    assert len(error.message.splitlines()) <= 1


def test_libvirts_own_number_wins() -> None:
    """Where libvirt reported the error its number is kept."""
    assert EngineError("a", "b", libvirt_code=38).libvirt_code == 38
    assert EngineError("a", "b").libvirt_code == 1


def test_error_without_place_or_wish_reads_well() -> None:
    """Empty texts leave no punctuation behind."""
    assert str(EngineError("", "it broke")) == "it broke"
    assert str(EngineError("a", "it broke", hint="mend it")) == "a: it broke; mend it"


def test_bypass_error_tells_its_reason() -> None:
    """The worker counts the reason."""
    error = BypassError("a", "b", reason="resident_pages")

    assert error.to_dict()["fields"]["reason"] == "resident_pages"
