"""Restores, starts and managed saves go the same way on libvirt and on a simulated host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from engine.errors import EngineError, NoDomainError, StorageError, WrongStateError
from engine.hypervisor.port import Domain
from tests.contract.hypervisor_lab import Lab, assert_as_before, new_file, now, save_to_file

AUTODESTROY = 2
BYPASS_CACHE = 1
FORCE_BOOT = 8
PAUSED = 4
RUNNING = 2
START_PAUSED = 1


def test_start_and_its_events(lab: Lab, guest: Domain) -> None:
    """A start gives another run; what libvirt tells comes in libvirt's order."""
    save_to_file(lab, guest)
    since = lab.bench.now(guest.uuid)

    lab.bench.hypervisor("start", guest.uuid, 0)

    assert now(lab, guest).run_id > guest.run_id
    assert lab.bench.events(guest.uuid, ["resumed", "started"], since) == ["resumed", "started"]
    lab.wait_counting(guest)


def test_paused_start_waits(lab: Lab, guest: Domain) -> None:
    """PAUSED: the pause counts as a person's after a boot, not with a managed save; a resume ends it."""
    lab.bench.hypervisor("managed_save", guest.uuid, 0)
    since = lab.bench.now(guest.uuid)
    for is_boot in (False, True):
        lab.bench.hypervisor("start", guest.uuid, START_PAUSED)

        found = now(lab, guest)
        assert (found.state, found.is_paused_by_user) == ("paused", is_boot)
        assert lab.bench.events(guest.uuid, ["started", "paused"], since) == ["started", "paused"]
        lab.bench.hypervisor("resume", guest.uuid)
        lab.wait_counting(guest)
        save_to_file(lab, guest)
        since = lab.bench.now(guest.uuid)


@pytest.mark.parametrize("flags", [0, BYPASS_CACHE])
def test_plain_file_is_a_whole_image(lab: Lab, guest: Domain, flags: int) -> None:
    """With nobody at the other end the hypervisor writes by itself, past the page cache or not."""
    target = new_file(lab)
    before = lab.counter(guest)

    lab.bench.hypervisor("save", guest.uuid, target, None, flags)
    assert Path(target).read_bytes()[:16] == b"LibvirtQemudSave"
    assert Path(target).stat().st_mode & 0o777 == 0o600
    lab.bench.hypervisor("restore", target, None, flags)

    assert now(lab, guest).is_running
    assert lab.wait_counting(guest) > before


def test_restore_visits_twice(lab: Lab, guest: Domain) -> None:
    """The head at the first look; all of it at the second; then the guest counts on from where it was."""
    image = save_to_file(lab, guest)
    before, since = lab.counter(guest), lab.bench.now(guest.uuid)

    lab.bench.feed(image)

    found = now(lab, guest)
    assert found.is_running
    assert found.run_id > guest.run_id
    assert found.is_persistent
    assert lab.wait_counting(guest) > before
    assert lab.bench.events(guest.uuid, ["started", "resumed"], since) == ["started", "resumed"]


def test_restore_of_a_stream_that_ends_early(lab: Lab, guest: Domain) -> None:
    """The half guest is taken down again; libvirt has told of none."""
    image = save_to_file(lab, guest)
    since = lab.bench.now(guest.uuid)

    with pytest.raises(EngineError) as caught:
        lab.bench.feed(image, cut=600_000)

    assert caught.value.libvirt_code == 9
    assert now(lab, guest).state == "shut off"
    assert lab.bench.events(guest.uuid, [], since) == []


@pytest.mark.parametrize(("flags", "state"), [(0, "running"), (PAUSED, "paused"), (RUNNING, "running")])
def test_restored_guest_is_as_it_was_or_as_asked(lab: Lab, guest: Domain, flags: int, state: str) -> None:
    """was_running says, the flags overrule it; such a pause is nobody's."""
    image = save_to_file(lab, guest)
    since = lab.bench.now(guest.uuid)

    lab.bench.hypervisor("restore", image, None, flags)

    found = now(lab, guest)
    told = ["started", "resumed" if state == "running" else "paused"]
    assert (found.state, found.is_paused_by_user) == (state, False)
    assert lab.bench.events(guest.uuid, told, since) == told


def test_paused_guest_is_restored_paused(lab: Lab, guest: Domain) -> None:
    """And runs from there when it is to."""
    lab.suspend(guest)
    image = save_to_file(lab, guest)

    lab.bench.hypervisor("restore", image, None, 0)

    assert now(lab, guest).state == "paused"
    lab.bench.hypervisor("resume", guest.uuid)
    lab.wait_counting(guest)


def test_restore_refuses(lab: Lab, guest: Domain) -> None:
    """What is active, no image, not whole, of another machine: each with its number, and no guest is left."""
    image, bad = save_to_file(lab, guest), new_file(lab)
    xml = lab.bench.hypervisor("domain_xml", guest.uuid)
    for path, dxml, code in (
        (f"{bad}-missing", None, {38}),
        (bad, None, {9}),
        (f"{bad}-partial", None, {9}),
        (image, "<x", {27, 35}),
        (image, xml.replace("<name>", "<name>other-"), {67}),
    ):
        if path == bad:
            lab.bench.mark_partial(image, bad)
            lab.bench.damage(bad, garbage=True)
        if path.endswith("partial"):
            lab.bench.mark_partial(image, path)
        with pytest.raises(EngineError) as caught:
            lab.bench.hypervisor("restore", path, dxml, 0)
        assert caught.value.libvirt_code in code, caught.value
    assert now(lab, guest).state == "shut off"

    lab.bench.hypervisor("restore", image, None, 0)
    with pytest.raises(WrongStateError) as active:
        lab.bench.hypervisor("restore", image, None, 0)
    assert active.value.libvirt_code == 55


def test_transient_domain_goes_with_its_guest(lab: Lab, new_guest: Callable[..., Domain]) -> None:
    """It cannot be managed-saved; a restore brings it back as transient."""
    guest = new_guest(transient=True)
    with pytest.raises(WrongStateError):
        lab.bench.hypervisor("managed_save", guest.uuid, 0)
    assert_as_before(lab, guest)
    assert not guest.is_persistent

    image = save_to_file(lab, guest)

    with pytest.raises(NoDomainError):
        now(lab, guest)
    with pytest.raises(EngineError):
        lab.bench.feed(image, cut=600_000)
    assert guest.uuid not in [domain.uuid for domain in lab.bench.hypervisor("list_domains")]
    lab.bench.hypervisor("restore", image, None, 0)
    assert not now(lab, guest).is_persistent
    lab.wait_counting(guest)


def test_managed_save_is_taken_up_by_the_next_start(lab: Lab, guest: Domain) -> None:
    """The image lies where the hypervisor keeps such, and goes when it was used."""
    before, since = lab.counter(guest), lab.bench.now(guest.uuid)
    path = lab.managed / f"{guest.name}.save"

    lab.bench.hypervisor("managed_save", guest.uuid, BYPASS_CACHE)
    saved = now(lab, guest)
    was_there = path.exists()
    lab.bench.hypervisor("start", guest.uuid, 0)

    assert (saved.state, saved.has_managed_save, was_there) == ("shut off", True, True)
    found = now(lab, guest)
    assert (found.state, found.has_managed_save, path.exists()) == ("running", False, False)
    assert lab.wait_counting(guest) > before
    told = ["paused", "stopped", "started", "resumed"]
    assert lab.bench.events(guest.uuid, told, since) == told


@pytest.mark.parametrize(("flags", "state"), [(PAUSED, "paused"), (RUNNING, "running")])
def test_managed_save_keeps_what_the_flags_say(lab: Lab, guest: Domain, flags: int, state: str) -> None:
    """For the next start."""
    if flags == RUNNING:
        lab.suspend(guest)

    lab.bench.hypervisor("managed_save", guest.uuid, flags)
    lab.bench.hypervisor("start", guest.uuid, 0)

    assert now(lab, guest).state == state


def test_failed_managed_save_leaves_what_the_flags_say(lab: Lab, guest: Domain) -> None:
    """The same mistake of libvirt: the engine has to put it right."""
    path = lab.managed / f"{guest.name}.save"
    path.mkdir()
    with pytest.raises(StorageError) as caught:
        lab.bench.hypervisor("managed_save", guest.uuid, PAUSED)
    path.rmdir()

    assert caught.value.libvirt_code == 38
    found = now(lab, guest)
    assert (found.state, found.run_id, found.is_paused_by_user) == ("paused", guest.run_id, False)


def test_managed_image_can_be_thrown_away(lab: Lab, guest: Domain) -> None:
    """By removing it, or by FORCE_BOOT; one that is not there is 38."""
    lab.bench.hypervisor("managed_save", guest.uuid, 0)
    lab.bench.hypervisor("managed_save_remove", guest.uuid)
    assert not now(lab, guest).has_managed_save
    with pytest.raises(StorageError) as caught:
        lab.bench.hypervisor("managed_save_remove", guest.uuid)
    assert caught.value.libvirt_code == 38

    lab.bench.hypervisor("start", guest.uuid, 0)
    lab.bench.hypervisor("managed_save", guest.uuid, 0)
    since = lab.bench.now(guest.uuid)
    lab.bench.hypervisor("start", guest.uuid, FORCE_BOOT)
    assert not now(lab, guest).has_managed_save
    assert lab.bench.events(guest.uuid, ["resumed", "started"], since) == ["resumed", "started"]
    lab.wait_counting(guest)


def test_damaged_managed_image(lab: Lab, guest: Domain) -> None:
    """Without a head it is thrown away in silence, as libvirt does; cut short it is an error and kept."""
    path = str(lab.managed / f"{guest.name}.save")
    lab.bench.hypervisor("managed_save", guest.uuid, 0)
    lab.bench.damage(path, cut=600_000)
    with pytest.raises(EngineError) as caught:
        lab.bench.hypervisor("start", guest.uuid, 0)
    found = now(lab, guest)
    assert caught.value.libvirt_code == 9
    assert (found.state, found.has_managed_save) == ("shut off", True)

    lab.bench.damage(path, garbage=True)
    since = lab.bench.now(guest.uuid)
    lab.bench.hypervisor("start", guest.uuid, 0)
    found = now(lab, guest)
    assert (found.state, found.has_managed_save) == ("running", False)
    assert lab.bench.events(guest.uuid, ["resumed", "started"], since) == ["resumed", "started"]
    lab.wait_counting(guest)


def test_guest_ends_with_the_connection_that_started_it(lab: Lab, guest: Domain) -> None:
    """AUTODESTROY."""
    save_to_file(lab, guest)

    lab.bench.beside("start", guest.uuid, AUTODESTROY)

    assert lab.bench.wait_state(guest.uuid, "shut off") == "shut off"


def test_image_of_a_domain_that_is_another_one_here(lab: Lab, guest: Domain) -> None:
    """Its name with another UUID: 9, and neither is touched."""
    image = save_to_file(lab, guest)
    lab.bench.hypervisor("start", guest.uuid, 0)
    other = str(Path(image).with_name("other"))
    lab.bench.replace_in_xml(image, other, guest.uuid, str(uuid4()))

    with pytest.raises(EngineError) as caught:
        lab.bench.hypervisor("restore", other, None, 0)

    assert caught.value.libvirt_code == 9
    assert now(lab, guest).is_running
    lab.wait_counting(guest)
