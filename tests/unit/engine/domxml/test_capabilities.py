"""What libvirt's capability documents say of a host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domxml.capabilities import (
    family_of,
    parse_capabilities,
    parse_cpu_features,
    parse_domain_capabilities,
)
from engine.errors import DomainXmlError
from tests.data.host_documents import CAPABILITIES, DOMAIN_CAPABILITIES


def test_host_is_read_with_its_cpu_and_qemus_user() -> None:
    """The user is that of KVM guests, without libvirt's signs for numbers."""
    facts = parse_capabilities(CAPABILITIES, where="x")

    assert (facts.cpu.vendor, facts.cpu.model, facts.cpu.signature) == ("Intel", "Haswell-noTSX", "6/63")
    assert facts.cpu.features == ("avx2", "invtsc")
    assert facts.qemu_user == "64055:108"


def test_each_virt_type_is_a_kind_of_its_own() -> None:
    """With its own emulator and machine types where it has such."""
    tcg, kvm, arm = parse_capabilities(CAPABILITIES, where="x").kinds

    assert (tcg.architecture, tcg.virt_type, tcg.emulator) == (
        "x86_64",
        "qemu",
        "/usr/bin/qemu-system-x86_64",
    )
    assert tcg.machines == ("pc-i440fx-9.2", "pc", "pc-q35-9.2", "q35", "pc-q35-4.2")
    assert tcg.aliases == {"pc": "pc-i440fx-9.2", "q35": "pc-q35-9.2"}
    assert (kvm.virt_type, kvm.emulator, kvm.machines) == ("kvm", "/opt/qemu/kvm", ("pc-q35-8.0",))
    assert (arm.architecture, arm.aliases) == ("aarch64", {"virt": "virt-9.2"})


def test_host_that_says_nothing_has_nothing() -> None:
    """A driver without guests, CPU or security model is no error."""
    facts = parse_capabilities("<capabilities/>", where="x")

    assert (facts.cpu.architecture, facts.qemu_user, facts.kinds) == ("", "", ())


def test_emulator_is_read_with_its_processors() -> None:
    """Usable, blocked by named features, blocked by nobody knows what; only supported modes."""
    cpu = parse_domain_capabilities(DOMAIN_CAPABILITIES, where="x").cpu

    assert cpu.modes == ("host-passthrough", "host-model", "custom")
    assert cpu.models == {"qemu64": (), "Haswell": ("hle", "rtm"), "Old": None}
    assert cpu.host_model == (
        '<cpu mode="custom" match="exact"><model fallback="forbid">EPYC</model><vendor>AMD</vendor>'
        '<feature policy="require" name="x2apic"/><feature policy="disable" name="monitor"/></cpu>'
    )


def test_only_what_is_enumerated_is_known_of_devices() -> None:
    """An empty list and an unsupported device mean none; a device without a list means nobody says."""
    profile = parse_domain_capabilities(DOMAIN_CAPABILITIES, where="x").profile

    assert profile.devices["disk.bus"] == ("virtio", "sata")
    assert profile.devices["video.model"] == ()
    assert profile.devices["tpm.backend"] == ()
    assert "rng.model" not in profile.devices
    assert "disk.device" not in profile.devices
    assert profile.loaders == ("/usr/share/OVMF/OVMF_CODE_4M.fd",)
    assert profile.family == "pc-q35"


def test_emulator_without_a_host_model_offers_none() -> None:
    """Nothing is made up."""
    text = "<domainCapabilities><cpu><mode name='host-model' supported='yes'/></cpu></domainCapabilities>"

    assert parse_domain_capabilities(text, where="x").cpu.host_model == ""


@pytest.mark.parametrize(
    ("machine", "family"),
    [
        ("pc-i440fx-10.0", "pc-i440fx"),
        ("pc-i440fx-rhel7.6.0", "pc-i440fx"),
        ("pc-q35-noble-v2", "pc-q35"),
        ("pc-q35-4.0.1", "pc-q35"),
        ("virt-9.2", "virt"),
        ("virt-rhel9.6.0", "virt"),
        ("s390-ccw-virtio-8.2", "s390-ccw-virtio"),
        ("pseries-10.0", "pseries"),
        ("microvm", "microvm"),
        ("x-remote", "x-remote"),
        ("", ""),
    ],
)
def test_machine_types_of_a_family_differ_in_version_only(machine: str, family: str) -> None:
    """Whatever distributions call their versions."""
    assert family_of(machine) == family


def test_spelled_out_features_leave_out_what_is_off() -> None:
    """A feature without a policy is there."""
    text = (
        "<cpu><model>x</model><feature policy='require' name='a'/><feature policy='disable' name='b'/>"
        "<feature name='c'/><feature policy='force' name='d'/></cpu>"
    )
    assert parse_cpu_features(text, where="x") == {"a", "c", "d"}


@pytest.mark.parametrize("text", ["", "no xml", "<domain/>", "<!DOCTYPE capabilities><capabilities/>"])
def test_another_document_is_refused(text: str) -> None:
    """By the rules that domain XML is read by."""
    for parse in (parse_capabilities, parse_domain_capabilities, parse_cpu_features):
        with pytest.raises(DomainXmlError, match=r"^x: "):
            parse(text, where="x")


@given(st.text())
def test_any_machine_has_a_family(machine: str) -> None:
    """It is never longer than the name, and a family is its own."""
    family = family_of(machine)

    assert machine.startswith(family)
    assert machine in {family, ""} or family_of(f"{family}-10.0") == family_of(f"{family}-9.2")
