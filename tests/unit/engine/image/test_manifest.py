from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checksum import Checksum
from engine.errors import ImageFormatError
from engine.image.manifest import Manifest, parse_manifest

MANIFEST = Manifest(
    job_id="job-1",
    op="save",
    domain="web-1",
    domain_uuid="0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d",
    host="alpha",
    taken_at="2026-01-02T03:04:05+00:00",
    fleetsave_version="0.1.0",
    libvirt_version="11.3.0",
    hypervisor_version="10.0.0",
    machine="q35",
    cpu_model="qemu64",
    was_running=True,
    image_bytes=1234,
    checksum=Checksum(algorithm="blake3", value="ab" * 32, parts=("cd" * 32,)),
    guest_paused_seconds=0.5,
    duration_seconds=1.5,
    throughput_bytes_per_second=1e9,
    data_path="stream",
    bypass_cache={"policy": "require", "failures": []},
    dxml_changes=[{"xpath": "/domain", "old": None, "new": "x"}],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def test_manifest_survives_its_file() -> None:
    """What was written is read again."""
    assert parse_manifest(MANIFEST.to_json(), path="m") == MANIFEST


@given(st.text(max_size=50), st.integers(0, 2**60), st.booleans(), st.floats(0, 1e12))
def test_values_survive_the_file(name: str, size: int, was_running: bool, seconds: float) -> None:
    """Whatever the values, names with any character included."""
    manifest = replace(
        MANIFEST, domain=name, image_bytes=size, was_running=was_running, duration_seconds=seconds
    )

    assert parse_manifest(manifest.to_json(), path="m") == manifest


@given(st.one_of(JSON.map(json.dumps), st.text(max_size=100)))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """What is no manifest is an error about the file and nothing else."""
    with pytest.raises(ImageFormatError, match=r"^m: "):
        parse_manifest(text, path="m")


@given(st.sampled_from([field.name for field in fields(Manifest)]), JSON)
def test_any_value_in_any_field_parses_or_is_refused(name: str, value: Any) -> None:
    """One field of any other value: a manifest whose values can be relied on, or an error."""
    document = json.loads(MANIFEST.to_json()) | {name: value}

    with suppress(ImageFormatError):
        manifest = parse_manifest(json.dumps(document), path="m")
        assert type(manifest.image_bytes) is int
        assert type(manifest.domain) is str
        assert type(manifest.checksum.value) is str


@pytest.mark.parametrize("name", [field.name for field in fields(Manifest) if field.name not in
    {"dxml_changes", "disks", "disks_consistent", "simulated", "requirements"}])  # fmt: skip
def test_missing_field_is_refused(name: str) -> None:
    """A manifest without a field that it must have is none."""
    document = json.loads(MANIFEST.to_json())
    del document[name]

    with pytest.raises(ImageFormatError):
        parse_manifest(json.dumps(document), path="m")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"a":' * 100_000, id="deep-objects"),
        pytest.param("", id="empty"),
        pytest.param('{"format": 1}', id="only-the-format"),
        pytest.param('{"format": 2}', id="of-the-future"),
        pytest.param('{"format": ' + "9" * 10_000 + "}", id="huge-number"),
    ],
)
def test_hostile_text_is_refused(text: str) -> None:
    """Depth and size do not bring the reader down."""
    with pytest.raises(ImageFormatError):
        parse_manifest(text, path="m")


def test_unknown_field_is_refused() -> None:
    """A manifest of another version is not half understood."""
    document = json.loads(MANIFEST.to_json()) | {"added_later": 1}

    with pytest.raises(ImageFormatError, match="added_later"):
        parse_manifest(json.dumps(document), path="m")


def test_checksum_in_other_parts_is_refused() -> None:
    """Parts of another size cannot be compared."""
    document = json.loads(MANIFEST.to_json())
    document["checksum"]["part_size"] = 1

    with pytest.raises(ImageFormatError, match="parts of 1 bytes"):
        parse_manifest(json.dumps(document), path="m")
