"""What a domain XML and its cookie need of a host."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domxml.capabilities import HostCpu
from engine.domxml.requirements import (
    CpuNeed,
    FirmwareNeed,
    Requirements,
    describe_requirements,
    known_host_cpu,
    parse_requirements,
    read_requirements,
)
from engine.errors import DomainXmlError
from tests.data.host_documents import COOKIE, CPU, DOMAIN

TEXT = st.text(max_size=20)
TEXTS = st.lists(TEXT, max_size=4).map(tuple)
HOST_CPUS = st.builds(HostCpu, architecture=TEXT, model=TEXT, vendor=TEXT, signature=TEXT, features=TEXTS)
NEEDS = st.builds(
    Requirements,
    architecture=TEXT,
    virt_type=TEXT,
    machine=TEXT,
    emulator=TEXT,
    cpu=st.none()
    | st.builds(CpuNeed, mode=TEXT, model=TEXT, vendor=TEXT, check=TEXT, required=TEXTS, disabled=TEXTS),
    firmware=st.builds(FirmwareNeed, loader=TEXT, is_secure=st.booleans(), nvram=TEXT, template=TEXT),
    devices=st.dictionaries(TEXT, TEXTS, max_size=4),
    saved_by=TEXT,
    host_cpu=st.none() | HOST_CPUS,
)


def test_everything_a_host_must_have_is_found() -> None:
    """Devices only as far as libvirt says of a host whether it has them."""
    needed = read_requirements(DOMAIN, where="x", saved_by="9.2.0", host_cpu=CPU)

    assert (needed.architecture, needed.virt_type, needed.machine) == ("x86_64", "kvm", "pc-q35-9.2")
    assert needed.emulator == "/usr/bin/qemu-system-x86_64"
    assert needed.firmware == FirmwareNeed(
        loader="/usr/share/OVMF/OVMF_CODE_4M.fd",
        is_secure=True,
        nvram="/var/lib/nvram/web-1.fd",
        template="/usr/share/OVMF/OVMF_VARS_4M.fd",
    )
    assert needed.devices == {
        "disk.bus": ("sata", "virtio"),
        "disk.device": ("cdrom", "disk"),
        "graphics.type": ("spice",),
        "video.model": ("qxl",),
        "hostdev.type": ("usb",),
        "tpm.model": ("tpm-crb",),
        "tpm.backend": ("emulator",),
        "loader.type": ("pflash",),
    }
    assert (needed.saved_by, needed.host_cpu) == ("9.2.0", CPU)


def test_cookie_says_which_processor_the_guest_got() -> None:
    """The XML may say less; forced is had, forbidden is off, optional says nothing."""
    from_xml = read_requirements(DOMAIN, where="x").cpu
    from_cookie = read_requirements(DOMAIN, COOKIE, where="x").cpu

    assert from_xml == CpuNeed(mode="custom", model="EPYC", check="partial")
    assert from_cookie == CpuNeed(
        mode="custom",
        model="EPYC",
        vendor="AMD",
        check="full",
        required=("x2apic", "invtsc"),
        disabled=("monitor", "svm"),
    )


@pytest.mark.parametrize(
    ("cpu", "mode"),
    [
        ("", None),
        ("<cpu><topology sockets='1' cores='2' threads='1'/></cpu>", None),
        ("<cpu mode='custom'/>", None),
        ("<cpu><model>qemu64</model></cpu>", "custom"),
        ("<cpu mode='host-model' check='partial'/>", "host-model"),
        ("<cpu mode='host-model'><model>EPYC</model></cpu>", "custom"),
        ("<cpu mode='host-passthrough' migratable='on'/>", "host-passthrough"),
        ("<cpu mode='maximum'/>", "maximum"),
    ],
)
def test_mode_of_the_processor(cpu: str, mode: str | None) -> None:
    """Without a model QEMU's default is meant; a host-model with one was chosen by a host."""
    needed = read_requirements(f"<domain type='qemu'>{cpu}</domain>", where="x")

    assert (needed.cpu.mode if needed.cpu else None) == mode
    assert needed.depends_on_host_cpu is (mode in {"host-passthrough", "maximum"})


def test_cookie_without_a_processor_leaves_the_xmls() -> None:
    """As images of older versions of libvirt have it."""
    needed = read_requirements(DOMAIN, "<cookie><slirpHelper/></cookie>", where="x")

    assert needed.cpu is not None
    assert needed.cpu.check == "partial"


def test_processor_is_asked_about_as_libvirt_writes_it() -> None:
    """What was forced is required, so that a host without it is found."""
    cpu = read_requirements(DOMAIN, COOKIE, where="x").cpu

    assert cpu is not None
    assert cpu.to_xml() == (
        '<cpu mode="custom" match="exact"><model fallback="forbid">EPYC</model><vendor>AMD</vendor>'
        '<feature policy="require" name="x2apic"/><feature policy="require" name="invtsc"/>'
        '<feature policy="disable" name="monitor"/><feature policy="disable" name="svm"/></cpu>'
    )


def test_cookie_that_is_none_is_refused_but_costs_no_image() -> None:
    """Whoever describes an image goes without."""
    with pytest.raises(DomainXmlError, match="cookie of x"):
        read_requirements(DOMAIN, "<domain/>", where="x")
    assert describe_requirements(DOMAIN, "<domain/>", where="x", saved_by="", host_cpu=None) == {}
    assert describe_requirements(DOMAIN, COOKIE, where="x", saved_by="", host_cpu=None)["machine"]


@given(NEEDS)
def test_json_gives_back_what_it_was_given(needed: Requirements) -> None:
    """Through the manifest, the event stream and the catalog."""
    document = needed.to_dict()

    assert json.loads(json.dumps(document)) == document
    assert parse_requirements(document) == needed
    assert known_host_cpu(document) == needed.host_cpu


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([*replace(read_requirements(DOMAIN, where="x")).to_dict(), "unknown"]),
)
def test_other_json_is_refused(value: object, key: str) -> None:
    """With a ValueError and nothing else, whatever is wrong in it."""
    document = read_requirements(DOMAIN, COOKIE, where="x").to_dict()
    for wrong in (value, document | {key: value}):
        try:
            found = parse_requirements(wrong)
        except ValueError:
            continue
        assert parse_requirements(found.to_dict()) == found


def test_words_of_a_newer_version_are_passed_over() -> None:
    """Another version number is not: it may mean something else by the same words."""
    document = read_requirements(DOMAIN, where="x").to_dict()

    assert parse_requirements(document | {"new": 1}) == read_requirements(DOMAIN, where="x")
    with pytest.raises(ValueError, match="version 2"):
        parse_requirements(document | {"v": 2})
    assert known_host_cpu(document | {"v": 2}) is None
    assert known_host_cpu({}) is None
