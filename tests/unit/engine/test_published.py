from dataclasses import replace
from pathlib import Path

import pytest

from engine.checksum import Checksum
from engine.image.manifest import Manifest
from engine.published import find_published

JOB = "0123456789abcdef"
MANIFEST = Manifest(
    job_id=JOB, op="save", domain="web-1", domain_uuid="11111111-2222-3333-4444-555555555555", host="alpha",
    taken_at="2026-01-31T22:00:00+00:00", fleetsave_version="1", libvirt_version="11.3.0",
    hypervisor_version="10.0.0", machine="pc", cpu_model="", was_running=True, image_bytes=3,
    checksum=Checksum(algorithm="blake3", value="ab", parts=("ab",)), guest_paused_seconds=0.5,
    duration_seconds=2.0, throughput_bytes_per_second=1.5, data_path="stream",
    bypass_cache={"policy": "require", "direct": True, "direct_bytes": 3, "buffered_bytes": 0,
                  "resident_bytes": 0, "failures": []},
)  # fmt: skip


def publish(image: Path, manifest: Manifest, path: Path) -> None:
    """Lay an image of 3 bytes and its manifest somewhere."""
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"abc")
    path.write_text(manifest.to_json())


@pytest.mark.parametrize("name", ["a.save", f"a.save.{JOB}"])
def test_image_file_of_a_job_is_found(tmp_path: Path, name: str) -> None:
    """Under its name, or under the one it gets when that was taken meanwhile."""
    publish(tmp_path / name, MANIFEST, tmp_path / f"{name}.manifest.json")

    found = find_published(JOB, to=tmp_path / "a.save", store=None)

    assert found is not None
    assert (found.path, found.bytes, found.state) == (str(tmp_path / name), 3, "saved")
    assert (found.host, found.duration_seconds, found.guest_paused_seconds) == ("alpha", 2.0, 0.5)


def test_restore_point_of_a_job_is_found(tmp_path: Path) -> None:
    """By the job's id, which is part of its name."""
    point = tmp_path / MANIFEST.domain_uuid / f"20260131T220000Z-{JOB}"
    publish(point / "memory.save", MANIFEST, point / "manifest.json")

    found = find_published(JOB, to=None, store=tmp_path)

    assert found is not None
    assert found.path == str(point)
    assert find_published("other", to=None, store=tmp_path) is None


def test_image_of_another_job_is_not_taken_for_ours(tmp_path: Path) -> None:
    """The name may have been anybody's."""
    publish(tmp_path / "a.save", replace(MANIFEST, job_id="other"), tmp_path / "a.save.manifest.json")

    assert find_published(JOB, to=tmp_path / "a.save", store=None) is None


def test_image_of_another_length_is_not_whole(tmp_path: Path) -> None:
    """A manifest alone proves nothing."""
    publish(tmp_path / "a.save", replace(MANIFEST, image_bytes=4), tmp_path / "a.save.manifest.json")

    assert find_published(JOB, to=tmp_path / "a.save", store=None) is None
