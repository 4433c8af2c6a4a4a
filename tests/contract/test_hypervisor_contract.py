"""Domains, jobs, errors: what the engine relies on holds for libvirt and the simulated one alike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from engine.errors import (
    CancelledError,
    DomainBusyError,
    DomainXmlError,
    HypervisorError,
    HypervisorUnreachableError,
    NoDomainError,
    ReadOnlyError,
    WrongStateError,
)
from engine.hypervisor.port import Domain
from tests.contract.hypervisor_lab import Lab, assert_as_before, new_file, now, save_to_file


def test_domain_is_found_by_name_and_uuid(lab: Lab, guest: Domain) -> None:
    """Name, UUID and list describe the same domain."""
    by_name, by_uuid = (lab.bench.hypervisor("find_domain", key) for key in (guest.name, guest.uuid))
    listed = lab.bench.hypervisor("list_domains")

    assert (by_name.name, by_name.uuid) == (by_uuid.name, by_uuid.uuid) == (guest.name, guest.uuid)
    assert guest.uuid in [domain.uuid for domain in listed]
    assert [domain.name for domain in listed] == sorted(domain.name for domain in listed)
    assert by_name.is_persistent
    assert by_name.is_running
    assert by_name.memory_bytes > 0
    assert by_name.resident_memory_bytes > 0
    assert not by_name.has_managed_save
    assert lab.bench.hypervisor("versions").libvirt.count(".") == 2


@pytest.mark.parametrize("name", ["nobody", "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d", "a/b", "..", "x" * 300])
def test_unknown_domain_has_its_own_error(lab: Lab, name: str) -> None:
    """Whatever is asked of it: 42."""
    for call in (
        ("find_domain", name),
        ("save", name, "/nowhere", None, 0),
        ("start", name, 0),
        ("resume", name),
    ):
        with pytest.raises(NoDomainError) as caught:
            lab.bench.hypervisor(*call)
        assert caught.value.libvirt_code == 42


def test_active_domain_refuses_what_needs_another_state(lab: Lab, guest: Domain) -> None:
    """Start of a running guest, resume of a running guest, abort without a job: 55."""
    for call in (("start", guest.uuid, 0), ("resume", guest.uuid), ("abort_job", guest.uuid)):
        with pytest.raises(WrongStateError) as caught:
            lab.bench.hypervisor(*call)
        assert caught.value.libvirt_code == 55
    assert_as_before(lab, guest)


def test_shut_off_domain_refuses_what_needs_a_guest(lab: Lab, guest: Domain) -> None:
    """55, before the target is touched."""
    save_to_file(lab, guest)
    found = now(lab, guest)
    assert (found.state, found.run_id, found.is_active) == ("shut off", -1, False)
    target = new_file(lab)

    for call in (
        ("save", guest.uuid, target, None, 0),
        ("managed_save", guest.uuid, 0),
        ("core_dump", guest.uuid, target, 0, 0),
        ("resume", guest.uuid),
        ("abort_job", guest.uuid),
        ("set_max_downtime", guest.uuid, 1.0),
    ):
        with pytest.raises(WrongStateError) as caught:
            lab.bench.hypervisor(*call)
        assert caught.value.libvirt_code == 55
    with pytest.raises(DomainXmlError):
        lab.bench.begin_checkpoint(guest.uuid)
    assert not Path(target).exists()


def test_pause_by_a_person_is_known_as_one(lab: Lab, guest: Domain) -> None:
    """Unlike the pauses of operations."""
    since = lab.bench.now(guest.uuid)
    lab.suspend(guest)
    found = now(lab, guest)
    lab.suspend(guest)
    lab.bench.hypervisor("resume", guest.uuid)

    assert (found.state, found.is_paused_by_user) == ("paused", True)
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, ["paused", "resumed"], since) == ["paused", "resumed"]


def test_busy_domain_refuses_a_second_job(lab: Lab, guest: Domain) -> None:
    """68 after a while (libvirt: 30 s); the first job is not disturbed."""
    image, second = new_file(lab), new_file(lab)
    lab.bench.begin_save(guest.uuid)

    with pytest.raises(DomainBusyError) as caught:
        lab.bench.beside("save", guest.uuid, second, None, 0)

    assert caught.value.libvirt_code == 68
    assert not Path(second).exists()
    lab.bench.drain()
    assert lab.bench.commit(image).header.is_complete


def test_aborted_job(lab: Lab, guest: Domain) -> None:
    """78; the guest runs again."""
    lab.bench.begin_save(guest.uuid)

    lab.bench.beside("abort_job", guest.uuid)
    with pytest.raises(CancelledError) as caught:
        lab.bench.read_out()

    assert caught.value.libvirt_code == 78
    assert_as_before(lab, guest)


def test_daemon_that_dies_takes_no_guest_with_it(lab: Lab, guest: Domain) -> None:
    """The call fails, the next one finds a daemon again, and that one has put the guest back."""
    lab.bench.begin_save(guest.uuid)

    lab.kill_daemon()
    with pytest.raises(HypervisorUnreachableError) as caught:
        lab.bench.abort()

    assert caught.value.libvirt_code == 38
    wait_answer(lab)
    assert lab.bench.wait_state(guest.uuid, "running") == "running"
    assert_as_before(lab, guest)
    lab.wait_counting(guest)


def wait_answer(lab: Lab) -> None:
    """Return once the daemon that is being started anew answers; a client may come too early."""
    deadline = time.monotonic() + 30
    while True:
        try:
            lab.bench.list_domains()
        except HypervisorUnreachableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def test_read_only_connection_changes_nothing(lab: Lab, guest: Domain) -> None:
    """29 for every change, and for XML with secrets; looking is free."""
    image = new_file(lab)
    calls: tuple[tuple[Any, ...], ...] = (
        ("save", guest.uuid, image, None, 0),
        ("restore", image, None, 0),
        ("managed_save", guest.uuid, 0),
        ("start", guest.uuid, 0),
        ("resume", guest.uuid),
        ("abort_job", guest.uuid),
        ("core_dump", guest.uuid, image, 0, 0),
        ("managed_save_remove", guest.uuid),
    )
    for call in calls:
        with pytest.raises(ReadOnlyError) as caught:
            lab.bench.beside(*call, read_only=True)
        assert caught.value.libvirt_code == 29
    with pytest.raises(ReadOnlyError):
        lab.bench.beside("domain_xml", guest.uuid, migratable=True, read_only=True)
    assert lab.bench.beside("find_domain", guest.uuid, read_only=True).is_running
    assert guest.name in lab.bench.beside("domain_xml", guest.uuid, read_only=True)


def test_closed_connection_answers_nobody(lab: Lab) -> None:
    """6."""
    with pytest.raises(HypervisorError) as caught:
        lab.bench.call_closed()

    assert caught.value.libvirt_code == 6
