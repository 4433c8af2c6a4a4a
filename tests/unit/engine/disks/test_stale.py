from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.disks.look import Look
from engine.disks.stale import QEMU_ENDS_SECONDS, compare_disk, compare_times, count_writes, saved_time
from engine.disks.writes import Writes
from engine.domxml.disks import Disk
from engine.image.qcow2 import Qcow2Header

SECOND = 10**9
THEN = 1_700_000_000 * SECOND + 123_456_789
DISK = Disk(
    target="vda", type="file", device="disk", format="raw", path="/srv/a", is_readonly=False,
    is_shareable=False, may_be_missing=False,
)  # fmt: skip
NOW = Look(kind="file", size=4096, mtime_ns=THEN, inode=7, generation=9)
SAVED: dict[str, Any] = {
    "target": "vda", "type": "file", "device": "disk", "format": "raw", "path": "/srv/a", "size": 4096,
    "mtime_ns": THEN, "inode": 7, "generation": 9,
}  # fmt: skip
#: Of a version of fleetsave that noted less.
OLD = {key: value for key, value in SAVED.items() if key not in {"inode", "generation"}}
HEAD = Qcow2Header(
    version=3, virtual_size=8192, cluster_bits=16, l1_size=1, l1_offset=196608, snapshots=0,
    incompatible_features=0, compatible_features=0, autoclear_features=0, backing_file=None, data_file=None,
    bitmaps=None,
)  # fmt: skip
QCOW2 = replace(NOW, qcow2=HEAD)
SAVED_QCOW2 = {
    **SAVED,
    "format": "qcow2",
    "qcow2": {"virtual_size": 8192, "snapshots": 0, "l1_offset": 196608},
}
DISK_QCOW2 = replace(DISK, format="qcow2")


@pytest.mark.parametrize("saved", [SAVED, OLD])
def test_same_file_with_the_same_time_is_the_same_disk(saved: dict[str, Any]) -> None:
    """Nothing is said of it."""
    assert compare_disk(saved, DISK, NOW) == []
    assert compare_disk(SAVED_QCOW2, DISK_QCOW2, QCOW2) == []


@given(st.integers(1, 2**62), st.sampled_from([SAVED, OLD]))
def test_any_later_time_is_a_later_write(later: int, saved: dict[str, Any]) -> None:
    """By a nanosecond or by a century, at whole seconds or not."""
    (reason,) = compare_disk(saved, DISK, replace(NOW, mtime_ns=THEN + later))

    assert reason.startswith("was written since (changed 2")


@given(st.integers(1, THEN))
def test_older_file_under_the_same_path_is_another_disk(earlier: int) -> None:
    """Such as one from a backup of the week before."""
    (reason,) = compare_disk(SAVED, DISK, replace(NOW, mtime_ns=THEN - earlier))

    assert reason.startswith("is an older one")


@given(st.integers(1, 2**62))
def test_copy_that_was_written_later_is_stale(later: int) -> None:
    """No rounding makes a later time fit."""
    moved = replace(DISK, path="/srv/b")

    assert compare_disk(SAVED, moved, replace(NOW, inode=8, mtime_ns=THEN + later))


@pytest.mark.parametrize("rounding", [100, 1000, 10**6, 10**7, SECOND])
@pytest.mark.parametrize(
    ("disk", "now"),
    [
        (replace(DISK, path="/srv/b"), NOW),
        (DISK, replace(NOW, inode=8)),
        (DISK, replace(NOW, generation=8)),
        (replace(DISK, path="/srv/b"), replace(NOW, generation=None)),
    ],
)
def test_copy_may_have_lost_part_of_a_second(disk: Disk, now: Look, rounding: int) -> None:
    """Another file is a copy, under whatever path; copying programs round times down."""
    rounded = replace(now, mtime_ns=THEN - THEN % rounding)

    assert compare_disk(SAVED, disk, rounded) == []


def test_the_same_file_has_not_lost_part_of_a_second() -> None:
    """Its time is of the writer, not of somebody who copied it."""
    assert compare_disk(SAVED, DISK, replace(NOW, mtime_ns=THEN - THEN % SECOND))


@pytest.mark.parametrize(
    ("disk", "now", "reason"),
    [
        (DISK_QCOW2, replace(QCOW2, qcow2=replace(HEAD, virtual_size=4096)), "holds 4096 bytes, held 8192"),
        (DISK_QCOW2, replace(QCOW2, qcow2=replace(HEAD, snapshots=1)), "has 1 internal snapshots, had 0"),
        (DISK_QCOW2, replace(QCOW2, qcow2=replace(HEAD, l1_offset=1)), "L1 table"),
        (DISK_QCOW2, replace(NOW, damage="magic at byte 0 is b'x'"), "no whole qcow2 any more"),
        (DISK, QCOW2, "is to be used as raw, was qcow2"),
    ],
)
def test_head_of_a_qcow2_tells_what_the_time_does_not(disk: Disk, now: Look, reason: str) -> None:
    """Each difference has its words."""
    assert any(reason in found for found in compare_disk(SAVED_QCOW2, disk, now))


def test_copy_of_a_qcow2_may_have_its_tables_elsewhere() -> None:
    """One that was converted holds the same."""
    now = replace(QCOW2, inode=8, size=9999, qcow2=replace(HEAD, l1_offset=1))

    assert compare_disk(SAVED_QCOW2, replace(DISK_QCOW2, path="/srv/b"), now) == []


def test_raw_disk_that_grew_is_another() -> None:
    """Whatever its time says."""
    assert compare_disk(SAVED, DISK, replace(NOW, size=8192)) == ["holds 8192 bytes, held 4096"]


def test_format_left_to_libvirt_is_raw() -> None:
    """Which is what libvirt takes it for."""
    assert compare_disk(SAVED, replace(DISK, format=""), NOW) == []
    assert compare_disk({**SAVED, "format": ""}, DISK, NOW) == []


def test_block_device_has_no_time() -> None:
    """Its node is made anew at each boot."""
    saved = {**SAVED, "type": "block"}
    device = replace(DISK, type="block")

    assert saved_time(saved) is None
    assert compare_disk(saved, device, replace(NOW, kind="block", mtime_ns=THEN + 1)) == []
    assert compare_disk(saved, device, replace(NOW, kind="block", size=1)) == ["holds 1 bytes, held 4096"]
    assert compare_disk(saved, device, replace(NOW, kind="block", size=None)) == []


@pytest.mark.parametrize("later", [-10, 0, QEMU_ENDS_SECONDS])
def test_disk_may_be_a_little_newer_than_an_image_of_virsh(later: int) -> None:
    """QEMU ends some seconds after the image is whole."""
    assert compare_times(THEN, replace(NOW, mtime_ns=THEN + later * SECOND)) == []
    assert compare_times(THEN, replace(NOW, mtime_ns=THEN + QEMU_ENDS_SECONDS * SECOND + 1))


WRITES = Writes(sectors=100, device="253:4", sequence=9, boot_id="b")
BLOCK = replace(NOW, kind="block", writes=WRITES)


@pytest.mark.parametrize(
    ("noted", "written"),
    [
        ({}, 0),
        ({"sectors": 93}, 7),
        ({"sectors": 101}, None),
        ({"sectors": "93"}, None),
        ({"device": "253:5"}, None),
        ({"sequence": 8}, None),
        ({"sequence": None}, None),
        ({"boot_id": "c"}, None),
    ],
)
def test_writes_to_a_block_device_count_from_the_save_on(noted: dict[str, Any], written: int | None) -> None:
    """Of another device, or after another boot, they say nothing."""
    saved = {**SAVED, "type": "block", "writes": {**asdict(WRITES), **noted}}
    device = replace(DISK, type="block")

    assert count_writes(saved, BLOCK) == written
    assert compare_disk(saved, device, BLOCK) == (
        [f"was written since ({written} sectors)"] if written else []
    )
    assert count_writes(saved, replace(BLOCK, writes=None)) is None
    assert count_writes({**saved, "writes": None}, BLOCK) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*SAVED_QCOW2, "writes"]), JSON), st.booleans())
def test_any_entry_is_compared_or_passed_over(saved: dict[str, Any], is_qcow2: bool) -> None:
    """A manifest may come from anywhere: nothing but sentences comes out."""
    for now in (QCOW2 if is_qcow2 else NOW, BLOCK):
        assert all(isinstance(reason, str) for reason in compare_disk(saved, DISK, now))
