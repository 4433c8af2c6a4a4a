"""Leave what an engine leaves that died after its image was whole, or before."""

from pathlib import Path

from engine.checksum import Checksum
from engine.image.manifest import Manifest
from engine.store.record import PREPARED, Record, read_boot_id

_UUID = "11111111-2222-3333-4444-555555555555"


def leave_image(store: Path, job_id: str, *, to: Path | None = None, state: str = PREPARED) -> Path:
    """Leave a staging directory with an image of 3 bytes; return it.

    Its guest is on no hypervisor: an image that is whole is the only copy of it.

    Args:
        store: directory of restore points.
        job_id: whose.
        to: the file that the job was to make; None = a restore point.
        state: of the record.
    """
    staging = store / ".staging" / job_id if to is None else to.parent / f".fleetsave-{job_id}"
    staging.mkdir(parents=True)
    final = store / _UUID / f"20260131T220000Z-{job_id}" if to is None else to
    record = Record(
        job_id=job_id, op="save", domain="web-1", domain_uuid=_UUID, run_id=7, was_running=True,
        final=str(final), is_point=to is None, boot_id=read_boot_id(), state=state,
    )  # fmt: skip
    (staging / "record.json").write_text(record.to_json())
    (staging / "memory.save").write_bytes(b"abc")
    if state == PREPARED:
        (staging / "manifest.json").write_text(make_manifest(job_id).to_json())
    return staging


def make_manifest(job_id: str) -> Manifest:
    """Return the manifest of the image."""
    bypass = {
        "policy": "require", "direct": True, "direct_bytes": 3, "buffered_bytes": 0, "resident_bytes": 0,
        "failures": [],
    }  # fmt: skip
    return Manifest(
        job_id=job_id, op="save", domain="web-1", domain_uuid=_UUID, host="alpha",
        taken_at="2026-01-31T22:00:00+00:00", fleetsave_version="1", libvirt_version="11.3.0",
        hypervisor_version="10.0.0", machine="pc", cpu_model="", was_running=True, image_bytes=3,
        checksum=Checksum(algorithm="blake3", value="ab", parts=("ab",)), guest_paused_seconds=0.5,
        duration_seconds=2.0, throughput_bytes_per_second=1.5, data_path="stream", bypass_cache=bypass,
    )  # fmt: skip


def publish_image(image: Path, job_id: str) -> None:
    """Lay an image and its manifest where they are found."""
    image.write_bytes(b"abc")
    image.with_name(f"{image.name}.manifest.json").write_text(make_manifest(job_id).to_json())
