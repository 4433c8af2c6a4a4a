from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.request import OPERATIONS, EngineRequest, parse_request
from tasks.config import HostSettings
from tasks.envelope import Envelope, check_job
from tasks.errors import RefusedJobError
from tasks.params import OPERATION_PARAMS, check_params, parse_compression, request_fields
from tasks.request import build_request

#: One good value of each parameter.
GOOD: dict[str, Any] = {
    "to": "/srv/a.save", "path": "/srv/a.save", "dxml": "<domain/>", "running": True, "paused": True,
    "reset_nvram": True, "force_boot": True, "force_stale_disks": True, "bypass_cache": "prefer",
    "compress": "zstd:9", "bandwidth": 1048576, "data_path": "stream", "image_format": "sparse",
    "channels": 4, "max_guest_pause": 2, "format": "raw", "memory_only": True, "crash": True, "live": True,
    "reset": True, "rules": "[[disk]]", "new_name": "web-1-copy",
}  # fmt: skip


def test_jobs_may_ask_for_every_operation_of_the_engine() -> None:
    """And for nothing that it does not know."""
    assert OPERATION_PARAMS.keys() == OPERATIONS


@pytest.mark.parametrize(
    ("op", "params", "asked"),
    [
        ("save", {"compress": "zstd", "bandwidth": 5}, {"zstd_level": 3, "bandwidth": 5}),
        ("save", {"compress": "none"}, {"zstd_level": None}),
        (
            "save",
            {"data_path": "native", "image_format": "sparse", "channels": 2},
            {"data_path": "native", "image_format": "sparse", "channels": 2},
        ),
        (
            "checkpoint",
            {"to": "/srv/a.save", "paused": True, "max_guest_pause": 0.25, "compress": "zstd:19"},
            {"to": "/srv/a.save", "paused": True, "max_pause_milliseconds": 250, "zstd_level": 19},
        ),
        ("restore", {"path": "/srv/a.save", "data_path": "native"}, {"data_path": "native"}),
        (
            "restore",
            {"path": "/srv/a.save", "rules": "[[disk]]", "new_name": "web-1-copy"},
            {"rules": "[[disk]]", "new_name": "web-1-copy", "dxml": None},
        ),
        ("restore", {"path": "/srv/a.save"}, {"force_stale_disks": False}),
        ("restore", {"path": "/srv/a.save", "force_stale_disks": True}, {"force_stale_disks": True}),
        ("managed-save-remove", {}, {}),
        ("start", {"force_boot": True}, {"force_boot": True}),
        (
            "dump",
            {"to": "/srv/a.core", "format": "kdump-zlib", "memory_only": True, "live": True},
            {"to": "/srv/a.core", "dump_format": 1, "dump_flags": 18},
        ),
        ("dump", {"to": "/srv/a.core", "crash": True}, {"dump_format": 0, "dump_flags": 1}),
        ("dump", {"to": "/srv/a.core", "reset": True, "live": False}, {"dump_flags": 8}),
    ],
)
def test_engine_is_asked_what_the_job_says(op: str, params: dict[str, Any], asked: dict[str, Any]) -> None:
    """All the way into the document that an engine process reads."""
    check_job(op, None if op == "restore" else "web-1", params)
    envelope = Envelope(
        job_id="1", attempt=1, op=op, host="alpha", domain="web-1", params=params,
        issued_at=None, expires_at=None, nonce="",  # type: ignore[arg-type]
    )  # fmt: skip

    request = build_request(envelope, HostSettings(name="alpha", uri="test:///default"))

    assert parse_request(request.to_json()) == request
    assert {key: getattr(request, key) for key in asked} == asked
    untold = {key: value for key, value in request_fields({}).items() if key not in asked}
    assert all(getattr(request, key) == value for key, value in untold.items())


def test_fields_of_requests_are_fields_of_the_engine() -> None:
    """A parameter that lands nowhere would be silently without effect."""
    for key, value in GOOD.items():
        assert request_fields({key: value}), key
    fields = request_fields({**GOOD, "memory_only": True})
    assert fields.keys() <= get_type_hints(EngineRequest).keys()


@pytest.mark.parametrize(
    ("op", "params"),
    [
        ("save", {"compress": "zstd:0"}),
        ("save", {"compress": "zstd:20"}),
        ("save", {"compress": "gzip"}),
        ("save", {"compress": None}),
        ("save", {"bandwidth": 0}),
        ("save", {"bandwidth": -1}),
        ("save", {"bandwidth": 1.5}),
        ("save", {"bandwidth": True}),
        ("save", {"bandwidth": "400MiB/s"}),
        ("save", {"data_path": "sideways"}),
        ("save", {"data_path": ["native"]}),
        ("save", {"data_path": "native", "compress": "zstd"}),
        ("save", {"data_path": "native", "bandwidth": 1}),
        ("save", {"image_format": "sparse"}),
        ("save", {"channels": 2}),
        ("save", {"data_path": "native", "channels": 0}),
        ("save", {"data_path": "native", "channels": 256}),
        ("save", {"data_path": "native", "image_format": "../x"}),
        ("save", {"max_guest_pause": 1}),
        ("checkpoint", {"max_guest_pause": 0}),
        ("checkpoint", {"max_guest_pause": float("nan")}),
        ("checkpoint", {"max_guest_pause": 3601}),
        ("checkpoint", {"max_guest_pause": "2s"}),
        ("checkpoint", {"dxml": "<domain/>"}),
        ("checkpoint", {"running": True, "paused": True}),
        ("managed-save-remove", {"paused": True}),
        ("managed-save", {"remove": True}),
        ("dump", {}),
        ("dump", {"to": None}),
        ("dump", {"to": "core"}),
        ("dump", {"to": "/a", "format": "elf"}),
        ("dump", {"to": "/a", "format": "kdump-lzo"}),
        ("dump", {"to": "/a", "crash": True, "live": True}),
        ("dump", {"to": "/a", "live": True, "reset": True}),
        ("dump", {"to": "/a", "memory_only": 1}),
        ("restore", {}),
        ("restore", {"path": "/srv/a.save", "force_stale_disks": 1}),
        ("restore", {"path": "/srv/a.save", "force_stale_disks": None}),
        ("restore", {"path": "/srv/a.save", "force_stale_disks": "yes"}),
        ("save", {"force_stale_disks": True}),
    ],
)
def test_what_no_host_would_take_is_malformed(op: str, params: dict[str, Any]) -> None:
    """Refused before a row is made, and again by the host."""
    with pytest.raises(RefusedJobError) as caught:
        check_params(op, params)
    assert caught.value.reason == "malformed"


def test_autodestroy_in_a_job_is_refused_with_the_way_out() -> None:
    """The guest would end with the job's connection."""
    with pytest.raises(RefusedJobError, match="--local --autodestroy"):
        check_job("start", "web-1", {"autodestroy": True})


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), st.lists)


@given(
    op=st.sampled_from(sorted(OPERATION_PARAMS)), params=st.dictionaries(st.sampled_from(list(GOOD)), JSON)
)
def test_any_values_are_taken_or_refused(op: str, params: dict[str, Any]) -> None:
    """Nothing but RefusedJobError comes out; what is taken can be asked of the engine."""
    try:
        check_params(op, params)
    except RefusedJobError:
        return
    request_fields(params)


@pytest.mark.parametrize(("text", "level"), [("none", None), ("zstd", 3), ("zstd:1", 1), ("zstd:19", 19)])
def test_compression_is_read(text: str, level: int | None) -> None:
    """As operators write it."""
    assert parse_compression(text) == level
