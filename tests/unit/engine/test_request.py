from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidArgumentError
from engine.flags import BypassPolicy
from engine.request import OPERATIONS, EngineRequest, parse_request

REQUIRED = {
    "op": "save",
    "job_id": "job-1",
    "host": "alpha",
    "uri": "test:///default",
    "runtime_dir": "/run/fleetsave",
}
KEYS = {field.name for field in fields(EngineRequest)}
TEXTS = st.text(max_size=20)
PATHS = st.none() | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20
).map(lambda text: f"/{text}")
JOB_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", fullmatch=True)
COUNTS = st.none() | st.integers(1, 10)


@given(
    st.builds(
        EngineRequest,
        op=st.sampled_from(sorted(OPERATIONS)),
        job_id=JOB_IDS,
        host=TEXTS,
        uri=TEXTS,
        runtime_dir=PATHS.map(lambda path: path or "/run"),
        domain=st.none() | TEXTS,
        path=PATHS,
        to=PATHS,
        store=PATHS,
        dxml=st.none() | TEXTS,
        running=st.booleans(),
        paused=st.booleans(),
        bypass_cache=st.sampled_from([policy.value for policy in BypassPolicy]),
        zstd_level=COUNTS,
        bandwidth=COUNTS,
        max_pause_milliseconds=COUNTS,
        allowed_roots=st.none() | st.lists(TEXTS, max_size=3),
        managed_save_dir=PATHS,
    )
)
def test_request_survives_the_way_to_the_engine(request: EngineRequest) -> None:
    """What the supervisor wrote is what the engine reads."""
    assert parse_request(request.to_json()) == request


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_missing_key_is_named(name: str) -> None:
    """A request that lacks what it needs says what."""
    document = {key: value for key, value in REQUIRED.items() if key != name}

    with pytest.raises(InvalidArgumentError, match=name):
        parse_request(json.dumps(document))


def test_keys_without_default_are_the_required_ones() -> None:
    """Nothing else has to be given."""
    assert {field.name for field in fields(EngineRequest) if field.default is MISSING} == set(REQUIRED)
    assert parse_request(json.dumps(REQUIRED)).op == "save"


@given(st.text(min_size=1, max_size=20).filter(lambda key: key not in KEYS))
def test_unknown_key_is_refused(key: str) -> None:
    """A key that nobody knows is no typing error to be passed over."""
    with pytest.raises(InvalidArgumentError, match="unknown key"):
        parse_request(json.dumps(REQUIRED | {key: 1}))


#: By annotation: values of every other JSON type.
_WRONG: dict[str, list[Any]] = {
    "str": [None, 1, 1.5, True, ["a"], {}],
    "str | None": [1, 1.5, True, ["a"], {}],
    "bool": [None, 1, "true", [], {}],
    "int": [None, 1.5, True, "1", [], {}],
    "int | None": [1.5, True, "1", [], {}],
    "list[str] | None": ["a", 1, [1], [None], [["a"]], {}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(field.name, value) for field in fields(EngineRequest) for value in _WRONG[str(field.type)]],
)
def test_value_of_another_type_is_refused(name: str, value: Any) -> None:
    """JSON has types, and so has every key."""
    with pytest.raises(InvalidArgumentError, match=f"{name} is "):
        parse_request(json.dumps(REQUIRED | {name: value}))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"v": 2}, id="version"),
        pytest.param({"op": "destroy"}, id="operation"),
        pytest.param({"job_id": ""}, id="no-job"),
        pytest.param({"job_id": "../x"}, id="job-that-climbs"),
        pytest.param({"job_id": "x" * 65}, id="long-job"),
        pytest.param({"job_id": "a\n"}, id="job-with-a-line-break"),
        pytest.param({"bypass_cache": "maybe"}, id="policy"),
        pytest.param({"runtime_dir": "run"}, id="relative-runtime-dir"),
        pytest.param({"to": "a.save"}, id="relative-target"),
        pytest.param({"path": ""}, id="empty-path"),
        pytest.param({"store": "./store"}, id="relative-store"),
        pytest.param({"to": "/a\0b"}, id="NUL-in-a-path"),
        pytest.param({"runtime_dir": "/a\0b"}, id="NUL-in-the-runtime-dir"),
        pytest.param({"to": "/\ud800"}, id="path-that-no-file-can-have"),
    ],
)
def test_request_that_nothing_could_mean_is_refused(changes: dict[str, Any]) -> None:
    """Impossible values are refused before anything is opened."""
    with pytest.raises(InvalidArgumentError) as caught:
        parse_request(json.dumps(REQUIRED | changes))

    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "[]",
        "1",
        "null",
        '"save"',
        "{",
        "[" * 100_000,
        '{"op": ' * 100_000,
        b"\xff\xfe{}",
        b"\xe9",
    ],
)
def test_text_that_is_no_object_is_refused(text: str | bytes) -> None:
    """What is no JSON object, in UTF-8 and of a sane depth, is a usage error and nothing else."""
    with pytest.raises(InvalidArgumentError, match="request"):
        parse_request(text)
