"""What the engine relies on in a hypervisor holds for libvirt and for the simulated one alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from engine.errors import (
    AbiError,
    CancelledError,
    DomainBusyError,
    DomainXmlError,
    EngineError,
    HypervisorError,
    HypervisorUnreachableError,
    InvalidArgumentError,
    NoDomainError,
    NotSupportedError,
    ReadOnlyError,
    StorageError,
    WrongStateError,
)
from engine.hypervisor.port import Domain
from tests.contract.conftest import Lab

BYPASS_CACHE, RUNNING, PAUSED = 1, 2, 4
START_PAUSED, AUTODESTROY, FORCE_BOOT = 1, 2, 8


def now(lab: Lab, guest: Domain) -> Domain:
    """Return the domain as it is now."""
    found: Domain = lab.bench.hypervisor("find_domain", guest.uuid)
    return found


def new_file(lab: Lab) -> str:
    """Return a path that nothing is at, in a directory of the host's user."""
    return str(lab.bench.make_folder() / "image")


def save_to_file(lab: Lab, guest: Domain) -> str:
    """Save the guest into a new file through the stream."""
    image = new_file(lab)
    lab.bench.begin_save(guest.uuid)
    lab.bench.drain()
    lab.bench.commit(image)
    return image


def assert_as_before(lab: Lab, guest: Domain) -> None:
    """See that it is the same guest in the same state, with nothing running on it."""
    found = now(lab, guest)
    seen = found.run_id, found.state, found.is_paused_by_user, found.running_job
    assert seen == (guest.run_id, guest.state, guest.is_paused_by_user, "")


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


def test_start_and_its_events(lab: Lab, guest: Domain) -> None:
    """A start gives another run; what libvirt tells comes in libvirt's order."""
    save_to_file(lab, guest)
    since = lab.bench.now()

    lab.bench.hypervisor("start", guest.uuid, 0)

    assert now(lab, guest).run_id > guest.run_id
    assert lab.bench.events(guest.uuid, ["resumed", "started"], since) == ["resumed", "started"]
    lab.wait_counting(guest)


def test_paused_start_waits(lab: Lab, guest: Domain) -> None:
    """PAUSED: the pause counts as a person's after a boot, not with a managed save; a resume ends it."""
    lab.bench.hypervisor("managed_save", guest.uuid, 0)
    since = lab.bench.now()
    for is_boot in (False, True):
        lab.bench.hypervisor("start", guest.uuid, START_PAUSED)

        found = now(lab, guest)
        assert (found.state, found.is_paused_by_user) == ("paused", is_boot)
        assert lab.bench.events(guest.uuid, ["started", "paused"], since) == ["started", "paused"]
        lab.bench.hypervisor("resume", guest.uuid)
        lab.wait_counting(guest)
        save_to_file(lab, guest)
        since = lab.bench.now()


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
    since = lab.bench.now()
    lab.suspend(guest)
    found = now(lab, guest)
    lab.suspend(guest)
    lab.bench.hypervisor("resume", guest.uuid)

    assert (found.state, found.is_paused_by_user) == ("paused", True)
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, ["paused", "resumed"], since) == ["paused", "resumed"]


def test_save_visits_twice_and_waits_at_the_gate(lab: Lab, guest: Domain) -> None:
    """First all of the image, marked partial; then the header again, complete; only then the guest goes."""
    image, since = new_file(lab), lab.bench.now()

    lab.bench.begin_save(guest.uuid)
    between = now(lab, guest)
    streamed = lab.bench.drain()
    events_at_gate = lab.bench.events(guest.uuid, ["paused"], since)
    head = lab.bench.commit(image)

    assert (between.state, between.run_id) == ("paused", guest.run_id)
    assert between.running_job
    assert not between.is_paused_by_user
    assert streamed.is_held
    assert events_at_gate == ["paused"]
    assert not streamed.head.header.is_complete
    assert head.header.is_complete
    assert streamed.head.header.finished() == head.header
    assert head.header.was_running
    assert head.cookie
    assert f"<name>{guest.name}</name>" in head.domain_xml
    assert streamed.size > head.header.stream_offset
    found = now(lab, guest)
    assert (found.state, found.run_id) == ("shut off", -1)
    assert lab.bench.events(guest.uuid, ["paused", "stopped"], since) == ["paused", "stopped"]


def test_left_gate_puts_the_guest_back(lab: Lab, guest: Domain) -> None:
    """EPIPE at the second visit: 38, and the very same guest runs."""
    since = lab.bench.now()
    lab.bench.begin_save(guest.uuid)
    lab.bench.drain()

    with pytest.raises(StorageError) as caught:
        lab.bench.abort()

    assert caught.value.libvirt_code == 38
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, ["paused", "resumed"], since) == ["paused", "resumed"]
    lab.wait_counting(guest)


def test_left_stream_puts_the_guest_back(lab: Lab, guest: Domain) -> None:
    """EPIPE in the middle: an internal error, and the very same guest runs."""
    lab.bench.begin_save(guest.uuid)

    with pytest.raises(HypervisorError) as caught:
        lab.bench.abort()

    assert caught.value.libvirt_code == 1
    assert_as_before(lab, guest)
    lab.wait_counting(guest)


def test_lost_path_puts_the_guest_back(lab: Lab, guest: Domain) -> None:
    """ENOENT at the second visit: 38, and no file is made."""
    lab.bench.begin_save(guest.uuid)

    with pytest.raises(StorageError) as caught:
        lab.bench.read_out(lose_path=True)

    assert caught.value.libvirt_code == 38
    assert_as_before(lab, guest)


@pytest.mark.parametrize("is_missing", [False, True])
def test_path_that_cannot_be_opened(lab: Lab, guest: Domain, *, is_missing: bool) -> None:
    """ENOENT, EISDIR: 38; the guest was paused for nothing and runs again."""
    folder = lab.bench.make_folder()
    since = lab.bench.now()

    with pytest.raises(StorageError) as caught:
        lab.bench.hypervisor("save", guest.uuid, str(folder / "no/image" if is_missing else folder), None, 0)

    assert caught.value.libvirt_code == 38
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, ["paused", "resumed"], since) == ["paused", "resumed"]


def test_paused_guest_stays_paused_after_a_failed_save(lab: Lab, guest: Domain) -> None:
    """Its header says that it did not run; there is no event, and its pause is a person's as before."""
    lab.suspend(guest)
    paused = now(lab, guest)
    since = lab.bench.now()
    lab.bench.begin_save(guest.uuid)
    streamed = lab.bench.drain()

    with pytest.raises(StorageError):
        lab.bench.abort()

    assert not streamed.head.header.was_running
    assert_as_before(lab, paused)
    assert lab.bench.events(guest.uuid, [], since) == []


def test_flags_decide_what_a_failed_save_leaves(lab: Lab, guest: Domain) -> None:
    """A mistake of libvirt, which the engine avoids by keeping these flags to itself."""
    lab.bench.begin_save(guest.uuid, flags=PAUSED)
    streamed = lab.bench.drain()
    with pytest.raises(StorageError):
        lab.bench.abort()

    found = now(lab, guest)
    assert not streamed.head.header.was_running
    assert (found.state, found.is_paused_by_user) == ("paused", False)
    with pytest.raises(StorageError):
        lab.bench.hypervisor("save", guest.uuid, str(lab.bench.make_folder()), None, RUNNING)
    assert now(lab, guest).is_running


@pytest.mark.parametrize("flags", [RUNNING | PAUSED, 64])
def test_impossible_flags(lab: Lab, guest: Domain, flags: int) -> None:
    """8, before the guest is touched."""
    since = lab.bench.now()

    with pytest.raises(InvalidArgumentError) as caught:
        lab.bench.hypervisor("save", guest.uuid, new_file(lab), None, flags)

    assert caught.value.libvirt_code == 8
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, [], since) == []


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("</domain>", "", DomainXmlError),
        ("<name>", "<name>other-", AbiError),
        ("</vcpu>", "2</vcpu>", AbiError),
    ],
)
def test_dxml_of_another_machine(
    lab: Lab, guest: Domain, old: str, new: str, error: type[EngineError]
) -> None:
    """Refused, with no file made; libvirt looks only once it has paused the guest."""
    dxml = lab.bench.hypervisor("domain_xml", guest.uuid, migratable=True).replace(old, new)
    target = new_file(lab)

    with pytest.raises(error):
        lab.bench.hypervisor("save", guest.uuid, target, dxml, 0)

    assert not Path(target).exists()
    assert_as_before(lab, guest)


def test_dxml_goes_into_the_image(lab: Lab, guest: Domain) -> None:
    """What does not concern the machine may change."""
    old = lab.bench.hypervisor("domain_xml", guest.uuid, migratable=True)
    dxml = old.replace("</uuid>", "</uuid><title>moved</title>")
    lab.bench.begin_save(guest.uuid, dxml=dxml)
    streamed = lab.bench.drain()
    with pytest.raises(StorageError):
        lab.bench.abort()

    assert "<title>moved</title>" in streamed.head.domain_xml


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
    before, since = lab.counter(guest), lab.bench.now()

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
    since = lab.bench.now()

    with pytest.raises(EngineError) as caught:
        lab.bench.feed(image, cut=600_000)

    assert caught.value.libvirt_code == 9
    assert now(lab, guest).state == "shut off"
    assert lab.bench.events(guest.uuid, [], since) == []


@pytest.mark.parametrize(("flags", "state"), [(0, "running"), (PAUSED, "paused"), (RUNNING, "running")])
def test_restored_guest_is_as_it_was_or_as_asked(lab: Lab, guest: Domain, flags: int, state: str) -> None:
    """was_running says, the flags overrule it; such a pause is nobody's."""
    image = save_to_file(lab, guest)
    since = lab.bench.now()

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
    before, since = lab.counter(guest), lab.bench.now()
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
    since = lab.bench.now()
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
    since = lab.bench.now()
    lab.bench.hypervisor("start", guest.uuid, 0)
    found = now(lab, guest)
    assert (found.state, found.has_managed_save) == ("running", False)
    assert lab.bench.events(guest.uuid, ["resumed", "started"], since) == ["resumed", "started"]
    lab.wait_counting(guest)


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
    assert lab.bench.wait_state(guest.uuid, "running") == "running"
    assert_as_before(lab, guest)
    lab.wait_counting(guest)


def test_checkpoint_leaves_the_guest_running(lab: Lab, guest: Domain) -> None:
    """It runs while memory is copied, is paused for the end, and runs on; the image is a save image."""
    image, since = new_file(lab), lab.bench.now()
    lab.bench.hypervisor("set_max_downtime", guest.uuid, 0.3)
    lab.bench.begin_checkpoint(guest.uuid)
    between = now(lab, guest)
    streamed = lab.bench.drain()
    head = lab.bench.commit(image)

    assert between.is_running
    assert between.running_job
    assert streamed.is_held
    assert (streamed.head.header.is_complete, head.header.is_complete) == (False, True)
    assert head.header.was_running
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, ["paused", "resumed"], since) == ["paused", "resumed"]
    lab.wait_counting(guest)
    save_to_file(lab, guest)
    lab.bench.hypervisor("restore", image, None, 0)
    lab.wait_counting(guest)


def test_left_checkpoint_hurts_nobody(lab: Lab, guest: Domain) -> None:
    """At the gate, where the guest is paused, and before, where it is not."""
    for goes_to_gate in (False, True):
        lab.bench.begin_checkpoint(guest.uuid)
        if goes_to_gate:
            lab.bench.drain()
        with pytest.raises(EngineError):
            lab.bench.abort()
        assert_as_before(lab, guest)


def test_checkpoint_needs_a_memory_file(lab: Lab, guest: Domain) -> None:
    """84."""
    with pytest.raises(NotSupportedError) as caught:
        lab.bench.hypervisor("checkpoint", guest.uuid, "<domainsnapshot/>")

    assert caught.value.libvirt_code == 84


def test_core_dump(lab: Lab, guest: Domain) -> None:
    """The guest stands meanwhile and goes on, unless it is to end."""
    target, since = new_file(lab), lab.bench.now()

    lab.bench.hypervisor("core_dump", guest.uuid, target, 0, 0)

    assert Path(target).stat().st_size > 0
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, ["paused", "resumed"], since) == ["paused", "resumed"]
    lab.bench.hypervisor("core_dump", guest.uuid, target, 0, 1)
    assert now(lab, guest).state == "shut off"
    told = ["paused", "resumed", "paused", "stopped"]
    assert lab.bench.events(guest.uuid, told, since) == told


@pytest.mark.parametrize(
    ("dump_format", "flags", "code"), [(0, 1 | 8, 8), (0, 1 | 2, 8), (1, 0, 84), (9, 16, 8)]
)
def test_impossible_core_dump(lab: Lab, guest: Domain, dump_format: int, flags: int, code: int) -> None:
    """Flags that exclude each other, formats that there are not."""
    with pytest.raises(EngineError) as caught:
        lab.bench.hypervisor("core_dump", guest.uuid, new_file(lab), dump_format, flags)

    assert caught.value.libvirt_code == code
    assert_as_before(lab, guest)


@pytest.mark.parametrize(
    ("image_format", "channels", "code"), [("bogus", None, 9), (None, 2, 8), ("raw", 2, 8), ("sparse", 0, 8)]
)
def test_impossible_format(
    lab: Lab, guest: Domain, image_format: str | None, channels: int | None, code: int
) -> None:
    """Refused before the guest is lost."""
    with pytest.raises(EngineError) as caught:
        lab.bench.hypervisor(
            "save_as", guest.uuid, new_file(lab), None, 0, image_format=image_format, channels=channels
        )

    assert caught.value.libvirt_code == code
    assert_as_before(lab, guest)


def test_guest_ends_with_the_connection_that_started_it(lab: Lab, guest: Domain) -> None:
    """AUTODESTROY."""
    save_to_file(lab, guest)

    lab.bench.beside("start", guest.uuid, AUTODESTROY)

    assert lab.bench.wait_state(guest.uuid, "shut off") == "shut off"


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
