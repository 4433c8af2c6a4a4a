import importlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import EngineError, HypervisorUnreachableError
from engine.hypervisor.port import Domain, Hypervisor
from engine.recover import list_leftovers, recover
from engine.store.record import PREPARED, Record, read_boot_id
from engine.store.staging import lock_directory

JOB = "0123456789abcdef"
#: The package gives the function of this name.
recover_module = importlib.import_module("engine.recover")


def nobody() -> Hypervisor:
    """Stand for a libvirt that does not answer."""
    where = "qemu:///system"
    raise HypervisorUnreachableError(where, "cannot connect")


def leave_staging(folder: Path, record: Record | None = None, name: str = f".fleetsave-{JOB}") -> Path:
    """Leave a staging directory as a dead engine does."""
    staging = folder / name
    staging.mkdir(parents=True)
    if record is not None:
        (staging / "record.json").write_text(record.to_json())
    return staging


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Give the record of a save whose image is whole."""
    return Record(
        job_id=JOB,
        op="save",
        domain="web-1",
        domain_uuid="11111111-2222-3333-4444-555555555555",
        run_id=3,
        was_running=True,
        final=str(tmp_path / "a.save"),
        is_point=False,
        boot_id=read_boot_id(),
        state=PREPARED,
    )


def test_empty_staging_directory_needs_no_hypervisor(tmp_path: Path) -> None:
    """The engine died before it wrote its record: nothing had been asked of libvirt."""
    staging = leave_staging(tmp_path)
    (staging / "record.json.new").write_text("{")

    [found] = recover(tmp_path / "run", [tmp_path], nobody)

    assert (found.kind, found.job_id) == ("discarded", JOB)
    assert not staging.exists()


@pytest.mark.parametrize("text", [None, "{", json.dumps({"state": "odd"})])
def test_image_whose_record_cannot_be_read_is_never_thrown_away(tmp_path: Path, text: str | None) -> None:
    """It may be the only copy of a guest: a person has to look."""
    staging = leave_staging(tmp_path)
    (staging / "memory.save").write_bytes(b"x")
    if text is not None:
        (staging / "record.json").write_text(text)

    [found] = recover(tmp_path / "run", [tmp_path], nobody)

    assert found.kind == "undecided"
    assert (staging / "memory.save").exists()


def test_unfinished_replacement_of_an_image_is_swept(tmp_path: Path) -> None:
    """The image that was to be replaced is whole, so its successor is nobody's only copy."""
    staging = leave_staging(tmp_path, name=".fleetsave-define-00")
    (staging / "memory.save").write_bytes(b"x")

    assert [found.kind for found in recover(tmp_path / "run", [tmp_path], nobody)] == ["discarded"]
    assert not staging.exists()


def test_nothing_is_decided_without_the_hypervisor(tmp_path: Path, record: Record) -> None:
    """Whether the guest still runs is what the image's fate hangs on."""
    staging = leave_staging(tmp_path, record)

    [found] = recover(tmp_path / "run", [tmp_path], nobody)

    assert (found.kind, found.domain) == ("undecided", "web-1")
    assert staging.exists()


def test_living_engine_is_not_disturbed(tmp_path: Path, record: Record) -> None:
    """Its locks say that it lives; it is no leftover either."""
    staging = leave_staging(tmp_path, record)
    workspace = tmp_path / "run/jobs" / JOB
    workspace.mkdir(parents=True)
    (workspace / "staging").symlink_to(staging)
    locks = [lock_directory(staging), lock_directory(workspace)]
    try:
        assert recover(tmp_path / "run", [tmp_path], nobody) == []
        assert list_leftovers(tmp_path / "run", [tmp_path]) == []
        assert workspace.exists()
    finally:
        for lock in locks:
            assert lock is not None
            os.close(lock)

    assert list_leftovers(tmp_path / "run", [tmp_path]) == sorted([staging, workspace])


def test_recovery_of_one_job_looks_at_no_other(tmp_path: Path, record: Record) -> None:
    """What another job left is put right when its own turn comes."""
    other = leave_staging(tmp_path, replace(record, job_id="other"), name=".fleetsave-other")
    leave_staging(tmp_path)

    found = recover(tmp_path / "run", [tmp_path], nobody, job_id=JOB)

    assert [one.job_id for one in found] == [JOB]
    assert other.exists()


def test_workspace_leads_to_a_staging_directory_anywhere(tmp_path: Path) -> None:
    """`save --to` may have written into a directory that nobody names at recovery."""
    staging = leave_staging(tmp_path / "far")
    workspace = tmp_path / "run/jobs" / JOB
    workspace.mkdir(parents=True)
    (workspace / "staging").symlink_to(staging)

    assert [found.kind for found in recover(tmp_path / "run", [], nobody)] == ["discarded"]
    assert not staging.exists()
    assert not workspace.exists()


class OneGuest:
    """A hypervisor with the record's guest, paused, which cannot be resumed."""

    def __init__(self, record: Record, job: str) -> None:
        self._guest = Domain(
            name=record.domain, uuid=record.domain_uuid, run_id=record.run_id, state="paused",
            is_persistent=True, is_paused_by_user=False, memory_bytes=1, resident_memory_bytes=1,
            has_managed_save=False, running_job=job,
        )  # fmt: skip

    def list_domains(self) -> list[Domain]:
        """Return the guest."""
        return [self._guest]

    def resume(self, uuid: str) -> None:
        """Refuse."""
        raise EngineError(uuid, "cannot acquire state change lock")

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(("op", "job"), [("checkpoint", ""), ("save", ""), ("save", "job of type 2")])
def test_guest_that_is_not_settled_yet_keeps_its_staging_directory(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch, op: str, job: str
) -> None:
    """Libvirt may be about to put it back, or to let it go: then the image is all there is of it."""
    monkeypatch.setattr(recover_module, "PUT_BACK_SECONDS", 0.2)
    staging = leave_staging(tmp_path, replace(record, op=op))

    [found] = recover(tmp_path / "run", [tmp_path], lambda: OneGuest(record, job))

    assert found.kind == "undecided"
    assert staging.exists()


def test_paused_guest_that_was_paused_before_is_left_so(tmp_path: Path, record: Record) -> None:
    """Nobody asked for it to run."""
    staging = leave_staging(tmp_path, replace(record, was_running=False))

    [found] = recover(tmp_path / "run", [tmp_path], lambda: OneGuest(record, ""))

    assert found.kind == "discarded"
    assert not staging.exists()
