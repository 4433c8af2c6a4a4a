"""What a host lacks of what a guest needs."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domxml.fitting import CPU_FEATURES, Missing, has_newer_hypervisor, list_missing
from engine.domxml.offer import HostCapabilities, parse_host_capabilities
from engine.domxml.requirements import CpuNeed, Requirements, read_requirements
from tests.data.host_documents import COOKIE, CPU, DOMAIN, HOST, PLATFORM

NEEDED = read_requirements(DOMAIN, COOKIE, where="x", saved_by="9.2.0")
CUSTOM = NEEDED.cpu
assert CUSTOM is not None
PASSTHROUGH = replace(NEEDED, cpu=CpuNeed(mode="host-passthrough"), host_cpu=CPU)


def offer(**changes: Any) -> HostCapabilities:
    """Return the host with something else on its platform."""
    return replace(HOST, platforms=(replace(PLATFORM, **changes),))


def only(needed: Requirements, host: HostCapabilities = HOST) -> Missing:
    """Return the one thing that is missing."""
    (missing,) = list_missing(needed, host)
    return missing


def test_host_with_everything_lacks_nothing() -> None:
    """The feature that keeps the model from being used is off in the guest; invtsc libvirt does not list."""
    assert list_missing(NEEDED, HOST) == ()
    assert list_missing(replace(NEEDED, machine="q35"), HOST) == ()


def test_everything_missing_is_listed_at_once() -> None:
    """Not only the first."""
    needed = replace(NEEDED, machine="pc-q35-11.0", emulator="/opt/q", cpu=replace(CUSTOM, model="EPYC-9"))
    host = offer(profiles=(replace(PLATFORM.profiles[0], devices={"video.model": ("vga",)}, loaders=()),))

    assert [each.what for each in list_missing(needed, host)] == [
        "emulator", "machine type", "CPU model", "firmware", "video model",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "found", "hint"),
    [
        (
            "pc-q35-11.0",
            "QEMU 9.2.0 has types up to pc-q35-9.2",
            "newer QEMU, as the one that saved it (9.2.0)",
        ),
        ("pc-q35-4.2", "QEMU 9.2.0 has types from pc-q35-9.0 to pc-q35-9.2", "dropped"),
        ("pc-q35-9.1", "QEMU 9.2.0 has types from pc-q35-9.0 to pc-q35-9.2", "never had it"),
        ("microvm", "QEMU 9.2.0 has no type of microvm", "another host"),
    ],
)
def test_unknown_machine_type_names_the_versions(machine: str, found: str, hint: str) -> None:
    """The machine type decides, not the version of QEMU."""
    missing = only(replace(NEEDED, machine=machine))

    assert (missing.what, missing.wanted, missing.is_certain) == ("machine type", machine, True)
    assert missing.found == found
    assert hint in missing.hint


def test_newer_hypervisor_is_told_by_number() -> None:
    """10 is more than 9."""
    assert has_newer_hypervisor(replace(NEEDED, saved_by="10.0.0"), HOST)
    assert not has_newer_hypervisor(replace(NEEDED, saved_by="9.2.0"), HOST)
    assert not has_newer_hypervisor(replace(NEEDED, saved_by=""), HOST)


def test_host_without_the_platform_is_asked_nothing_else() -> None:
    """KVM that is not there, an architecture that is not there, one that may only not be listed."""
    tcg = offer(virt_type="qemu")

    assert only(NEEDED, tcg).what == "virt type"
    assert "/dev/kvm" in only(NEEDED, tcg).hint
    arm = replace(NEEDED, architecture="aarch64")
    assert (only(arm).what, only(arm).is_certain) == ("architecture", True)
    assert not only(arm, replace(HOST, is_complete=False)).is_certain
    assert not only(replace(NEEDED, architecture="")).is_certain


def test_file_that_nobody_lists_may_be_there_all_the_same() -> None:
    """Unless the host itself looked for this guest."""
    for needed in (
        replace(NEEDED, emulator="/opt/qemu"),
        replace(NEEDED, firmware=replace(NEEDED.firmware, loader="/opt/code.fd")),
    ):
        assert not only(needed).is_certain
        assert only(needed, replace(HOST, is_exact=True)).is_certain


@pytest.mark.parametrize(
    ("cpu", "wanted"),
    [
        (replace(CUSTOM, required=("avx512f", "avx", "amx")), "amx, avx512f"),
        (replace(CUSTOM, disabled=()), "monitor"),
        (replace(CUSTOM, model="Haswell", disabled=("hle",)), "rtm"),
    ],
)
def test_features_that_the_host_cannot_give_are_named(cpu: CpuNeed, wanted: str) -> None:
    """Those the guest has beside its model, and those of the model that are not switched off."""
    missing = only(replace(NEEDED, cpu=cpu))

    assert (missing.what, missing.wanted, missing.is_certain) == (CPU_FEATURES, wanted, True)


def test_unchecked_processor_is_no_certain_refusal() -> None:
    """QEMU would start without the feature, and libvirt lets it."""
    assert not only(replace(NEEDED, cpu=replace(CUSTOM, required=("amx",), check="none"))).is_certain


def test_feature_that_libvirt_does_not_list_counts_by_the_hosts_own_processor() -> None:
    """With KVM; emulated, nobody has it."""
    needed = replace(NEEDED, cpu=replace(CUSTOM, required=("invtsc",)))

    assert list_missing(needed, HOST) == ()
    assert only(needed, replace(HOST, cpu=replace(CPU, features=("avx",)))).wanted == "invtsc"
    assert only(replace(needed, virt_type="qemu"), offer(virt_type="qemu")).wanted == "invtsc"


def test_model_that_cannot_be_used_for_reasons_unknown_is_doubtful() -> None:
    """As old versions of libvirt say it."""
    missing = only(replace(NEEDED, cpu=CpuNeed(mode="custom", model="Old", check="full")))

    assert (missing.what, missing.is_certain) == ("CPU model", False)


def test_host_that_does_not_list_features_is_not_held_to_them() -> None:
    """No list is no answer."""
    assert list_missing(NEEDED, offer(cpu_features=None, cpu_models={}, cpu_modes=())) == ()


def test_given_host_processor_fits_the_same_one_only() -> None:
    """Vendor, family and model; then features. Nobody wrote it down: nobody can tell."""
    assert list_missing(PASSTHROUGH, HOST) == ()
    for other in (
        replace(CPU, vendor="Intel"),
        replace(CPU, signature="26/2"),
        replace(CPU, features=("sse2",)),
    ):
        missing = only(PASSTHROUGH, replace(HOST, cpu=other))
        assert (missing.what, missing.is_certain) == ("host CPU (host-passthrough)", True)
    assert "avx, invtsc" in only(PASSTHROUGH, replace(HOST, cpu=replace(CPU, features=("sse2",)))).wanted
    assert list_missing(PASSTHROUGH, replace(HOST, cpu=replace(CPU, signature=""))) == ()
    assert not only(replace(PASSTHROUGH, host_cpu=None)).is_certain


def test_mode_that_is_not_offered_is_missing() -> None:
    """Emulated guests do not get the host's processor."""
    assert only(PASSTHROUGH, offer(cpu_modes=("custom",))).what == "CPU mode"


def test_emulated_maximum_is_as_much_as_one_qemu_could() -> None:
    """The same version gives the same; another one nobody can tell."""
    needed = replace(NEEDED, virt_type="qemu", cpu=CpuNeed(mode="maximum"))
    host = offer(virt_type="qemu", cpu_modes=("maximum",))

    assert list_missing(needed, host) == ()
    assert not only(replace(needed, saved_by="8.0.0"), host).is_certain


def test_devices_are_judged_by_their_machine_types_family() -> None:
    """What libvirt enumerates for another one says nothing."""
    (q35,) = PLATFORM.profiles
    spiceless = replace(q35, devices=dict(q35.devices) | {"graphics.type": ("vnc",)})

    assert str(only(NEEDED, offer(profiles=(spiceless,)))) == "graphics spice (the host has vnc)"
    assert list_missing(NEEDED, offer(profiles=(replace(spiceless, family="pc-i440fx"),))) == ()
    assert list_missing(NEEDED, offer(profiles=())) == ()


def test_published_capabilities_come_back_as_they_were() -> None:
    """Through JSON; words of a newer version are passed over, another version is refused."""
    document = json.loads(json.dumps(HOST.to_dict()))

    assert parse_host_capabilities(document | {"new": 1}) == HOST
    with pytest.raises(ValueError, match="version"):
        parse_host_capabilities(document | {"v": 2})


@given(
    st.sampled_from(sorted(HOST.to_dict())),
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2) | st.just({}),
)
def test_published_nonsense_is_refused(key: str, value: object) -> None:
    """With a ValueError, or it means something."""
    try:
        host = parse_host_capabilities(HOST.to_dict() | {key: value})
    except ValueError:
        return
    assert isinstance(list_missing(NEEDED, host), tuple)


@given(st.permutations(range(4)), st.integers(0, 4))
def test_a_host_that_offers_more_lacks_no_more(order: list[int], count: int) -> None:
    """Whatever is taken away from an offer, nothing that was missing comes back."""
    reductions: list[dict[str, Any]] = [
        {"machines": ("pc-q35-9.0",), "aliases": {}},
        {"cpu_features": ()},
        {"emulators": ()},
        {"profiles": (replace(PLATFORM.profiles[0], loaders=()),)},
    ]
    changes: dict[str, Any] = {}
    before: set[str] = set()
    for index in order[:count]:
        changes |= reductions[index]
        now = {each.what for each in list_missing(NEEDED, offer(**changes))}
        assert before < now
        before = now
