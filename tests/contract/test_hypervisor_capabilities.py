"""Hosts say in the same documents, and with the same refusals, what they can run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lxml import etree

from engine.domxml.capabilities import (
    EmulatorFacts,
    parse_capabilities,
    parse_cpu_features,
    parse_domain_capabilities,
)
from engine.errors import AbiError, EngineError, InvalidArgumentError, ReadOnlyError, StorageError
from engine.hypervisor.port import Domain, Platform
from tests.contract.hypervisor_lab import Lab, new_file, save_to_file

#: No emulator has it, and no simulated host unless told.
ABSENT = "avx512f"


def platform_of(lab: Lab) -> Platform:
    """Return the platform of the lab's guests."""
    kinds = parse_capabilities(lab.bench.hypervisor("capabilities"), where="capabilities").kinds
    kind = next(each for each in kinds if each.architecture == "x86_64")
    assert kind.virt_type == ("sim" if lab.is_simulated else "qemu")
    alias, machine = next(iter(kind.aliases.items()))
    assert alias in kind.machines
    assert machine in kind.machines
    return Platform(
        architecture=kind.architecture, virt_type=kind.virt_type, emulator=kind.emulator, machine=machine
    )


def facts_of(lab: Lab, platform: Platform) -> EmulatorFacts:
    """Return what the host says of a platform."""
    text = lab.bench.hypervisor("domain_capabilities", platform)
    return parse_domain_capabilities(text, where="domain capabilities")


def with_feature(cpu: str, name: str) -> str:
    """Return a <cpu> that requires one more feature."""
    root = etree.fromstring(cpu)
    etree.SubElement(root, "feature", policy="require", name=name)
    return etree.tostring(root, encoding="unicode")


def test_host_describes_itself(lab: Lab) -> None:
    """Its own processor is of the architecture that its guests can have."""
    facts = parse_capabilities(lab.bench.hypervisor("capabilities"), where="capabilities")

    assert facts.cpu.architecture == "x86_64"
    assert facts.cpu.model
    assert facts.cpu.features
    assert facts.qemu_user == "", "a session's QEMU runs as the session's user"


def test_emulator_describes_itself(lab: Lab) -> None:
    """Left open, emulator and machine type are the host's choice; an alias means one machine type."""
    platform = platform_of(lab)
    facts = facts_of(lab, platform)

    assert (facts.emulator, facts.machine) == (platform.emulator, platform.machine)
    assert "custom" in facts.cpu.modes
    assert "host-passthrough" not in facts.cpu.modes, "nothing is accelerated here"
    assert facts_of(lab, replace(platform, emulator=None, machine=None)).emulator == platform.emulator


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ({"machine": "pc-q35-99.0"}, InvalidArgumentError, 8),
        ({"virt_type": "kvm"}, InvalidArgumentError, 8),
        ({"emulator": "/nonexistent/other"}, StorageError, 38),
        ({"emulator": None, "architecture": "sparc64"}, AbiError, 67),
    ],
)
def test_platform_that_the_host_has_not_is_refused(
    lab: Lab, change: dict[str, str], kind: type[EngineError], code: int
) -> None:
    """By number, so that callers can tell; a processor for it is refused as well."""
    platform = replace(platform_of(lab), **change)  # type: ignore[arg-type]
    for method, *arguments in (["domain_capabilities"], ["compare_cpu", "<cpu mode='host-model'/>"]):
        with pytest.raises(kind) as caught:
            lab.bench.hypervisor(method, platform, *arguments)
        assert caught.value.libvirt_code == code


def test_best_processor_fits_until_it_needs_more(lab: Lab) -> None:
    """The feature that is missing is named."""
    platform = platform_of(lab)
    best = facts_of(lab, platform).cpu.host_model

    assert lab.bench.hypervisor("compare_cpu", platform, best).is_compatible
    match = lab.bench.hypervisor("compare_cpu", platform, with_feature(best, ABSENT))

    assert not match.is_compatible
    assert match.lacking == (ABSENT,)
    assert ABSENT in match.reason


def test_unknown_model_is_an_error(lab: Lab) -> None:
    """Nobody can compare it."""
    with pytest.raises(EngineError, match="Unknown CPU model NoSuchModel") as caught:
        lab.bench.hypervisor("compare_cpu", platform_of(lab), "<cpu><model>NoSuchModel</model></cpu>")
    assert caught.value.libvirt_code == 1


def test_features_can_be_spelled_out(lab: Lab) -> None:
    """Those of the model included; never one that no guest can have."""
    platform = platform_of(lab)
    cpu = facts_of(lab, platform).cpu
    expanded = lab.bench.hypervisor("expand_cpu", platform, cpu.host_model)

    features = parse_cpu_features(expanded, where="cpu")
    assert "sse2" in features
    assert ABSENT not in features


def test_read_only_connection_describes_no_platform(lab: Lab) -> None:
    """Asking may start an emulator, so libvirt denies it; the host itself it describes."""
    platform = platform_of(lab)
    for method, *arguments in (
        ["domain_capabilities"],
        ["compare_cpu", "<cpu/>"],
        ["expand_cpu", "<cpu/>"],
    ):
        with pytest.raises(ReadOnlyError):
            lab.bench.beside(method, platform, *arguments, read_only=True)
    assert "<capabilities>" in lab.bench.beside("capabilities", read_only=True)


def test_image_of_an_unknown_machine_type_is_not_restored(lab: Lab, guest: Domain) -> None:
    """Without the engine's guard libvirt finds out by itself: the configuration is not supported."""
    image, other = save_to_file(lab, guest), new_file(lab)
    machine = "sim-1" if lab.is_simulated else "pc-i440fx-10.0"
    lab.bench.replace_in_xml(image, other, f"machine='{machine}'", f"machine='{'z' * len(machine)}'")

    with pytest.raises(AbiError, match="does not support machine type"):
        lab.bench.hypervisor("restore", other, None, 0)
    lab.bench.hypervisor("restore", image, None, 0)


def test_what_is_published_of_models_is_what_the_host_answers(lab: Lab) -> None:
    """A model is blocked in the one document exactly where the comparison refuses it."""
    platform = platform_of(lab)
    models = facts_of(lab, platform).cpu.models
    assert models
    for model, blockers in models.items():
        cpu = f"<cpu mode='custom' match='exact'><model fallback='forbid'>{model}</model></cpu>"
        assert lab.bench.hypervisor("compare_cpu", platform, cpu).is_compatible is (blockers == ()), model
