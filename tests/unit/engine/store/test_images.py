from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.checksum import Checksum
from engine.directio.checksum import StreamChecksum
from engine.errors import BypassError, ImageFormatError, ImageIncompleteError, StorageError
from engine.flags import BypassPolicy
from engine.image.manifest import MANIFEST_SIZE_MAX, Manifest
from engine.store.images import OpenImage, open_image, read_manifest
from engine.units import MiB
from tests.data.libvirt_peer import make_image

XML = "<domain><name>web-1</name></domain>"


def manifest_for(image: bytes) -> Manifest:
    """Return the manifest of an image."""
    sums = StreamChecksum()
    sums.update(image)
    return Manifest(
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
        image_bytes=len(image),
        checksum=sums.finish(),
        guest_paused_seconds=0.5,
        duration_seconds=1.5,
        throughput_bytes_per_second=1e9,
        data_path="stream",
        bypass_cache={"policy": "require", "failures": []},
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a complete image with its manifest."""
    path = tmp_path / "web.save"
    data = make_image(XML, b"memory" * 1000)
    path.write_bytes(data)
    path.with_name("web.save.manifest.json").write_text(manifest_for(data).to_json())
    return path


def opened(path: Path, policy: BypassPolicy = BypassPolicy.REQUIRE) -> OpenImage:
    """Return an image whose file is closed again."""
    found = open_image(path, policy)
    found.file.close()
    return found


@pytest.mark.parametrize("policy", BypassPolicy)
def test_image_is_opened_with_head_manifest_and_length(image: Path, policy: BypassPolicy) -> None:
    """All that is known before the memory is read, whatever the policy."""
    found = opened(image, policy)

    assert found.size == image.stat().st_size
    assert found.head.domain_xml == XML
    assert found.first_bytes == image.read_bytes()
    assert found.manifest is not None
    assert found.manifest.image_bytes == found.size
    assert isinstance(found.manifest.checksum, Checksum)


def test_head_longer_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    """A domain XML of megabytes is no obstacle."""
    path = tmp_path / "long.save"
    xml = f"<domain><name>web-1</name><description>{'x' * 3 * MiB}</description></domain>"
    path.write_bytes(make_image(xml, b"memory"))

    found = opened(path)

    assert found.head.domain_xml == xml
    assert len(found.first_bytes) >= found.head.header.stream_offset


def test_image_without_manifest_has_none(image: Path) -> None:
    """What virsh made has no manifest."""
    image.with_name("web.save.manifest.json").unlink()

    assert opened(image).manifest is None


@pytest.mark.parametrize("change", [-1, +1])
def test_image_of_another_length_than_its_manifest_says_is_refused(image: Path, change: int) -> None:
    """One byte less or more is noticed at once."""
    os.truncate(image, image.stat().st_size + change)

    with pytest.raises(ImageIncompleteError, match="as its manifest says"):
        open_image(image, BypassPolicy.REQUIRE)


def test_image_without_memory_is_refused(tmp_path: Path) -> None:
    """A head alone is no guest."""
    path = tmp_path / "head.save"
    path.write_bytes(make_image(XML, b""))

    with pytest.raises(ImageIncompleteError, match="before the guest's memory begins"):
        open_image(path, BypassPolicy.REQUIRE)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", ImageFormatError),
        (b"no image", ImageFormatError),
        (b"LibvirtQemudPart" + make_image(XML, b"memory")[16:], ImageIncompleteError),
        (make_image(XML, b"memory")[:200], ImageIncompleteError),
    ],
)
def test_refused_image_leaves_no_descriptor_open(tmp_path: Path, data: bytes, error: type[Exception]) -> None:
    """Each refusal closes what it had opened."""
    path = tmp_path / "bad.save"
    path.write_bytes(data)
    before = len(list(Path("/proc/self/fd").iterdir()))

    with pytest.raises(error):
        open_image(path, BypassPolicy.REQUIRE)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_link_is_not_followed(image: Path, tmp_path: Path) -> None:
    """The last part of a path may not be a link: it could have been put there meanwhile."""
    (tmp_path / "link.save").symlink_to(image)

    with pytest.raises(StorageError):
        open_image(tmp_path / "link.save", BypassPolicy.REQUIRE)


def test_bypass_that_is_refused_is_told() -> None:
    """A file system without direct I/O fails with `require`."""
    with pytest.raises((BypassError, ImageFormatError)):
        open_image(Path("/proc/version"), BypassPolicy.REQUIRE)


def test_manifest_is_read_with_a_bound(tmp_path: Path) -> None:
    """A manifest as large as an image is not read into memory."""
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(MANIFEST_SIZE_MAX + 1)

    with pytest.raises(ImageFormatError, match="too large"):
        read_manifest(path)


def test_manifest_that_cannot_be_read_is_not_taken_for_missing(tmp_path: Path) -> None:
    """Only a file that is not there means that there is none."""
    assert read_manifest(tmp_path / "missing") is None
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageError):
        read_manifest(tmp_path / "directory")
    (tmp_path / "broken").write_bytes(b"\xff\xfe")
    with pytest.raises(ImageFormatError):
        read_manifest(tmp_path / "broken")
    (tmp_path / "list").write_text(json.dumps([1]))
    with pytest.raises(ImageFormatError):
        read_manifest(tmp_path / "list")
