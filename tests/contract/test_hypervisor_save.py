"""Saves, checkpoints and dumps go the same way on libvirt and on a simulated host."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import (
    AbiError,
    DomainXmlError,
    EngineError,
    HypervisorError,
    InvalidArgumentError,
    NotSupportedError,
    StorageError,
)
from engine.hypervisor.port import Domain
from tests.contract.hypervisor_lab import Lab, assert_as_before, new_file, now, save_to_file

PAUSED = 4
RUNNING = 2


def test_save_visits_twice_and_waits_at_the_gate(lab: Lab, guest: Domain) -> None:
    """First all of the image, marked partial; then the header again, complete; only then the guest goes."""
    image, since = new_file(lab), lab.bench.now(guest.uuid)

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
    since = lab.bench.now(guest.uuid)
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
    since = lab.bench.now(guest.uuid)

    with pytest.raises(StorageError) as caught:
        lab.bench.hypervisor("save", guest.uuid, str(folder / "no/image" if is_missing else folder), None, 0)

    assert caught.value.libvirt_code == 38
    assert_as_before(lab, guest)
    assert lab.bench.events(guest.uuid, ["paused", "resumed"], since) == ["paused", "resumed"]


def test_paused_guest_stays_paused_after_a_failed_save(lab: Lab, guest: Domain) -> None:
    """Its header says that it did not run; there is no event, and its pause is a person's as before."""
    lab.suspend(guest)
    paused = now(lab, guest)
    since = lab.bench.now(guest.uuid)
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
    since = lab.bench.now(guest.uuid)

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


def test_checkpoint_leaves_the_guest_running(lab: Lab, guest: Domain) -> None:
    """It runs while memory is copied, is paused for the end, and runs on; the image is a save image."""
    image, since = new_file(lab), lab.bench.now(guest.uuid)
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
    target, since = new_file(lab), lab.bench.now(guest.uuid)

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
