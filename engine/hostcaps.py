"""Find out what this host can run: all of it to be published, or all that one guest needs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from engine.domxml.capabilities import (
    CpuOffer,
    EmulatorFacts,
    GuestKind,
    HostCpu,
    HostFacts,
    family_of,
    parse_capabilities,
    parse_cpu_features,
    parse_domain_capabilities,
)
from engine.domxml.offer import HostCapabilities, PlatformOffer
from engine.domxml.requirements import Requirements, read_requirements
from engine.errors import EngineError, HypervisorUnreachableError
from engine.hypervisor.connect import connect
from engine.hypervisor.port import Hypervisor, Platform, Versions
from engine.units import KiB

#: Platforms that are looked at for publishing; the host's own architecture comes first.
PLATFORMS_MAX: Final = 8
#: Bytes of JSON that are published; four platforms of x86 take 100 KiB.
CAPABILITIES_SIZE_MAX: Final = 256 * KiB


def host_capabilities(uri: str) -> HostCapabilities:
    """Return what the host behind a libvirt URI can run, small enough to be published.

    It takes libvirt a few seconds where it has never looked at its emulators before, else some
    ten milliseconds for each platform.

    Raises:
        HypervisorUnreachableError: nobody answers at the URI.
        EngineError: the driver does not say what it can run.
    """
    hypervisor = connect(uri)
    try:
        return describe_host(hypervisor)
    finally:
        hypervisor.close()


def describe_host(hypervisor: Hypervisor) -> HostCapabilities:
    """Return what the host can run, at most CAPABILITIES_SIZE_MAX bytes of JSON.

    Raises:
        EngineError: the driver does not say.
    """
    facts, versions = _facts(hypervisor), hypervisor.versions()
    kinds = sorted(facts.kinds, key=lambda kind: kind.architecture != facts.cpu.architecture)
    platforms = [_platform_of(hypervisor, kind) for kind in kinds[:PLATFORMS_MAX]]
    whole = _sum_up(facts, versions, platforms)
    capabilities = replace(whole, is_complete=len(kinds) <= PLATFORMS_MAX)
    while capabilities.platforms and len(json.dumps(capabilities.to_dict())) > CAPABILITIES_SIZE_MAX:
        capabilities = replace(capabilities, platforms=capabilities.platforms[:-1], is_complete=False)
    return capabilities


def describe_host_for(hypervisor: Hypervisor, needed: Requirements) -> HostCapabilities:
    """Return what the host has for one guest: its platform alone, as exact as libvirt says.

    Raises:
        EngineError: the driver does not say what it can run.
    """
    facts, versions = _facts(hypervisor), hypervisor.versions()
    platforms = [_platform_of(hypervisor, kind, needed) for kind in facts.kinds]
    return replace(_sum_up(facts, versions, platforms), is_exact=True)


def given_host_cpu(hypervisor: Hypervisor, uuid: str) -> HostCpu | None:
    """Return the host's processor if the guest was given that one as it is; None where it has one of its own.

    Nothing in the image will tell which it was.
    """
    needed = read_requirements(hypervisor.domain_xml(uuid), where=uuid)
    if not needed.depends_on_host_cpu:
        return None
    try:
        return _facts(hypervisor).cpu
    except HypervisorUnreachableError:
        raise
    except EngineError:
        return None


def qemu_user_of(hypervisor: Hypervisor) -> tuple[int, int] | None:
    """Return user and group id of QEMU's processes where the driver says so; else they are this process's."""
    try:
        user, _, group = _facts(hypervisor).qemu_user.partition(":")
    except HypervisorUnreachableError:
        raise
    except EngineError:
        return None
    return (int(user), int(group)) if user.isdecimal() and group.isdecimal() else None


def platform_of(needed: Requirements) -> Platform:
    """Return the platform that a guest is to run on."""
    return Platform(
        architecture=needed.architecture,
        virt_type=needed.virt_type,
        emulator=needed.emulator or None,
        machine=needed.machine or None,
    )


def _facts(hypervisor: Hypervisor) -> HostFacts:
    return parse_capabilities(hypervisor.capabilities(), where="capabilities of the host")


def _sum_up(facts: HostFacts, versions: Versions, platforms: Iterable[PlatformOffer]) -> HostCapabilities:
    return HostCapabilities(
        libvirt_version=versions.libvirt,
        hypervisor_version=versions.hypervisor,
        cpu=facts.cpu,
        qemu_user=facts.qemu_user,
        platforms=tuple(platforms),
    )


def _platform_of(
    hypervisor: Hypervisor, kind: GuestKind, needed: Requirements | None = None
) -> PlatformOffer:
    """Return what is offered to guests of one kind; of a guest that is not of it only the names."""
    offer = PlatformOffer(
        architecture=kind.architecture,
        virt_type=kind.virt_type,
        emulators=(kind.emulator,),
        machines=kind.machines,
        aliases=kind.aliases,
    )
    if needed is None:
        return _with_details(hypervisor, offer, _look_at_families(hypervisor, kind))
    if (needed.architecture, needed.virt_type) != (kind.architecture, kind.virt_type):
        return offer
    return _look_for(hypervisor, offer, needed)


def _look_at_families(hypervisor: Hypervisor, kind: GuestKind) -> list[EmulatorFacts]:
    """Ask about one machine type of each family: those with a short name, else the default."""
    machines: list[str | None] = [*dict.fromkeys(kind.aliases.values())]
    found = (
        _ask(
            hypervisor,
            Platform(
                architecture=kind.architecture,
                virt_type=kind.virt_type,
                emulator=kind.emulator,
                machine=machine,
            ),
        )
        for machine in machines or [None]
    )
    return [each for each in found if each is not None]


def _look_for(hypervisor: Hypervisor, offer: PlatformOffer, needed: Requirements) -> PlatformOffer:
    """Ask about the guest's very own platform; what libvirt does not know of it, is left out step by step."""
    exact = platform_of(needed)
    alike = replace(exact, machine=_same_family(offer, needed.machine))
    for platform in (exact, alike, replace(exact, emulator=None), replace(alike, emulator=None)):
        found = _ask(hypervisor, platform)
        if found is None:
            continue
        if platform.emulator and platform.emulator not in offer.emulators:
            # Another emulator than libvirt's choice, with machine types of its own.
            offer = replace(offer, emulators=(*offer.emulators, platform.emulator), machines=())
        if platform.machine:
            offer = replace(offer, machines=tuple({*offer.machines, platform.machine}))
        return _with_details(hypervisor, offer, [found])
    return offer


def _same_family(offer: PlatformOffer, machine: str) -> str | None:
    """Return a machine type that the host has and that is most like another one."""
    family = family_of(machine)
    return next((each for each in offer.aliases.values() if family_of(each) == family), None)


def _ask(hypervisor: Hypervisor, platform: Platform) -> EmulatorFacts | None:
    """Return what libvirt says of a platform; None where the host has not got it."""
    try:
        text = hypervisor.domain_capabilities(platform)
    except HypervisorUnreachableError:
        raise
    except EngineError:
        return None
    return parse_domain_capabilities(text, where="domain capabilities of the host")


def _with_details(hypervisor: Hypervisor, offer: PlatformOffer, found: list[EmulatorFacts]) -> PlatformOffer:
    """Return the offer with what the emulator says of processors and devices."""
    if not found:
        return offer
    first = found[0]
    platform = Platform(
        architecture=offer.architecture,
        virt_type=offer.virt_type,
        emulator=first.emulator,
        machine=first.machine,
    )
    profiles = {each.profile.family: each.profile for each in found}
    return replace(
        offer,
        cpu_modes=first.cpu.modes,
        cpu_models=first.cpu.models,
        cpu_features=_features(hypervisor, platform, first.cpu),
        profiles=tuple(profiles.values()),
    )


def _features(hypervisor: Hypervisor, platform: Platform, cpu: CpuOffer) -> tuple[str, ...] | None:
    """Return every feature of the best processor that guests can have; None where libvirt does not say."""
    if not cpu.host_model:
        return None
    try:
        expanded = hypervisor.expand_cpu(platform, cpu.host_model)
    except HypervisorUnreachableError:
        raise
    except EngineError:
        return None
    return tuple(sorted(parse_cpu_features(expanded, where="CPU of the host")))
