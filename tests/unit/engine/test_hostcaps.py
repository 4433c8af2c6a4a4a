"""What a host can run is found out by asking it, once for all guests and exactly for one."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine import host_capabilities, hostcaps
from engine.domxml.offer import parse_host_capabilities
from engine.domxml.requirements import read_requirements
from engine.errors import HypervisorUnreachableError, NotSupportedError, StorageError
from engine.hostcaps import describe_host, describe_host_for, given_host_cpu
from tests.data.host_documents import COOKIE, DOMAIN
from tests.data.paper_hypervisor import PaperHypervisor

NEEDED = read_requirements(DOMAIN, COOKIE, where="x")


def asked(hypervisor: Any) -> list[tuple[str | None, str | None]]:
    """Return emulator and machine of each question."""
    return [(platform.emulator, platform.machine) for platform in hypervisor.asked]


def test_published_is_one_profile_for_each_family_of_each_platform() -> None:
    """The host's own architecture comes first; what the best processor has not got is left out."""
    hypervisor: Any = PaperHypervisor()

    found = describe_host(hypervisor)

    assert [(each.architecture, each.virt_type) for each in found.platforms] == [
        ("x86_64", "qemu"), ("x86_64", "kvm"), ("aarch64", "qemu"),
    ]  # fmt: skip
    tcg = found.platforms[0]
    assert [profile.family for profile in tcg.profiles] == ["pc-i440fx", "pc-q35"]
    assert tcg.cpu_features == ("sse2",)
    assert tcg.cpu_models["Haswell"] == ("hle", "rtm")
    assert asked(hypervisor) == [
        ("/usr/bin/qemu-system-x86_64", "pc-i440fx-9.2"),
        ("/usr/bin/qemu-system-x86_64", "pc-q35-9.2"),
        ("/opt/qemu/kvm", None),
        ("/usr/bin/qemu-system-aarch64", "virt-9.2"),
    ]
    assert (found.is_complete, found.is_exact, found.qemu_user) == (True, False, "64055:108")
    assert parse_host_capabilities(json.loads(json.dumps(found.to_dict()))) == found


def test_published_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By platforms and by bytes; that something was left out is said."""
    monkeypatch.setattr(hostcaps, "PLATFORMS_MAX", 2)
    fewer = describe_host(PaperHypervisor())  # type: ignore[arg-type]
    assert (len(fewer.platforms), fewer.is_complete) == (2, False)

    size = len(json.dumps(fewer.to_dict()))
    monkeypatch.setattr(hostcaps, "CAPABILITIES_SIZE_MAX", size - 1)
    smaller = describe_host(PaperHypervisor())  # type: ignore[arg-type]
    assert (len(smaller.platforms), smaller.is_complete) == (1, False)
    assert len(json.dumps(smaller.to_dict())) < size


def test_host_that_does_not_spell_out_features_publishes_none() -> None:
    """None is no empty list."""
    hypervisor: Any = PaperHypervisor()
    hypervisor.expanded = ""

    assert describe_host(hypervisor).platforms[0].cpu_features is None


def test_guest_is_asked_about_by_its_very_own_platform() -> None:
    """Once; platforms of other guests are only named."""
    hypervisor: Any = PaperHypervisor()

    found = describe_host_for(hypervisor, NEEDED)

    assert found.is_exact
    assert asked(hypervisor) == [("/usr/bin/qemu-system-x86_64", "pc-q35-9.2")]
    kvm = found.platform("x86_64", "kvm")
    assert kvm is not None
    assert kvm.emulators == ("/opt/qemu/kvm", "/usr/bin/qemu-system-x86_64")
    assert kvm.machines == ("pc-q35-9.2",), "another emulator has machine types of its own"
    assert found.platforms[0].profiles == ()


def test_what_the_host_has_not_is_left_out_step_by_step() -> None:
    """First the machine type, then the emulator; what is left is asked about a machine type like it."""
    hypervisor: Any = PaperHypervisor()
    needed = read_requirements(DOMAIN.replace("'kvm'", "'qemu'").replace("9.2'", "99'"), where="x")
    hypervisor.refuses = lambda platform: (
        StorageError("x", "no") if platform.emulator or platform.machine == "pc-q35-99" else None
    )

    found = describe_host_for(hypervisor, needed)

    emulator = "/usr/bin/qemu-system-x86_64"
    assert asked(hypervisor) == [
        (emulator, "pc-q35-99"), (emulator, "pc-q35-9.2"), (None, "pc-q35-99"), (None, "pc-q35-9.2"),
    ]  # fmt: skip
    assert found.platforms[0].profile("pc-q35-99") is not None


def test_host_that_answers_nothing_has_names_only() -> None:
    """What libvirt lists without asking an emulator."""
    hypervisor: Any = PaperHypervisor()
    hypervisor.refuses = lambda _platform: NotSupportedError("x", "no")

    kvm = describe_host_for(hypervisor, NEEDED).platform("x86_64", "kvm")

    assert kvm is not None
    assert (kvm.machines, kvm.profiles, kvm.cpu_features) == (("pc-q35-8.0",), (), None)


def test_lost_connection_is_no_answer() -> None:
    """Else a host would seem to have nothing."""
    hypervisor: Any = PaperHypervisor()
    hypervisor.refuses = lambda _platform: HypervisorUnreachableError("x", "gone")

    with pytest.raises(HypervisorUnreachableError):
        describe_host_for(hypervisor, NEEDED)
    with pytest.raises(HypervisorUnreachableError):
        describe_host(hypervisor)


def test_hosts_processor_is_noted_where_the_guest_has_it() -> None:
    """And only there."""
    given: Any = PaperHypervisor(domain_xml="<domain type='kvm'><cpu mode='host-passthrough'/></domain>")
    own: Any = PaperHypervisor()

    cpu = given_host_cpu(given, "u")
    assert cpu is not None
    assert cpu.model == "Haswell-noTSX"
    assert given_host_cpu(own, "u") is None


def test_simulated_host_says_what_its_uri_says(tmp_path: Path) -> None:
    """So that fleets of unequal hosts can be tried."""
    found = host_capabilities(f"sim://{tmp_path}?host=a&machines=sim-2,sim-1&features=avx512f")

    (platform,) = found.platforms
    assert (platform.virt_type, platform.cpu_features) == ("sim", ("avx512f",))
    assert {"sim-1", "sim-2"} <= set(platform.machines)
    assert platform.aliases == {"sim": "sim-2"}
    assert (found.libvirt_version, found.hypervisor_version) == ("11.3.0", "10.0.0")
