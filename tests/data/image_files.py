"""Lay save images on a disk, with manifests where wanted, as `save` leaves them."""

from __future__ import annotations

import random
import struct
from functools import cache
from pathlib import Path
from typing import Final

from engine.directio.checksum import StreamChecksum
from engine.image.header import ImageFormat, parse_header
from engine.image.manifest import Manifest
from engine.store.places import IMAGE_NAME, XML_NAME, manifest_of
from tests.data.libvirt_peer import make_image

UUID: Final = "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"
XML: Final = (
    f"<domain type='kvm'><name>web-1</name><uuid>{UUID}</uuid><memory unit='KiB'>262144</memory>"
    "<vcpu placement='static'>2</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>"
    "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>"
    "<on_crash>destroy</on_crash></domain>"
)
OTHER_XML: Final = XML.replace("destroy", "restart")
#: Does not fit into what libvirt leaves behind the XML.
LARGE_XML: Final = XML.replace("</domain>", f"<description>{'y' * 100_000}</description></domain>")


@cache
def memory_stream(size: int) -> bytes:
    """Return the memory of a guest: bytes that no other guest has, begun as QEMU begins."""
    return b"QEVM" + random.Random(size).randbytes(size - 4)  # noqa: S311 - only to differ


def write_image(
    path: Path,
    *,
    xml: str = XML,
    stream: bytes | None = None,
    image_format: ImageFormat = ImageFormat.RAW,
    byte_order: str = "<",
    was_running: bool = True,
    has_manifest: bool = True,
) -> bytes:
    """Write an image and its manifest; return the image's bytes."""
    data = memory_stream(1_000_003) if stream is None else stream
    image = bytearray(make_image(xml, data, byte_order=byte_order, was_running=was_running))
    struct.pack_into(f"{byte_order}I", image, 28, image_format)
    path.write_bytes(image)
    path.chmod(0o600)
    if has_manifest:
        manifest_of(path).write_text(describe(bytes(image)).to_json())
    return bytes(image)


def write_point(directory: Path, *, xml: str = XML, stream: bytes | None = None) -> bytes:
    """Write a restore point; return its image's bytes."""
    directory.mkdir(parents=True)
    (directory / XML_NAME).write_text(xml)
    return write_image(directory / IMAGE_NAME, xml=xml, stream=stream)


def describe(image: bytes) -> Manifest:
    """Return the manifest of an image."""
    checksum = StreamChecksum()
    checksum.update(image)
    return Manifest(
        job_id="job-1",
        op="save",
        domain="web-1",
        domain_uuid=UUID,
        host="here",
        taken_at="2026-01-01T00:00:00+00:00",
        fleetsave_version="0.1.0",
        libvirt_version="11.3.0",
        hypervisor_version="10.0.0",
        machine="pc-q35-10.0",
        cpu_model="qemu64",
        was_running=parse_header(image, path="").was_running,
        image_bytes=len(image),
        checksum=checksum.finish(),
        guest_paused_seconds=0.5,
        duration_seconds=1.0,
        throughput_bytes_per_second=1e9,
        data_path="stream",
        bypass_cache={
            "policy": "require",
            "direct": True,
            "direct_bytes": len(image),
            "buffered_bytes": 0,
            "resident_bytes": 0,
            "failures": [],
        },
    )


def patch_head(image: bytes, *changes: tuple[str, str]) -> bytes:
    """Return the image with other texts of the same length in its XML and cookie."""
    end = parse_header(image, path="image").stream_offset
    head = image[:end]
    for old, new in changes:
        assert len(old) == len(new)
        assert old.encode() in head, old
        head = head.replace(old.encode(), new.encode())
    return head + image[end:]
