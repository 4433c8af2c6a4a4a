"""Sum up what a host can run, small enough to be published; as JSON and back.

The same value is made for one guest on its own host (`is_exact`): then what is not in it
is not there. What a host publishes for the fleet leaves room for files nobody listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from engine.domxml.capabilities import HostCpu, Profile, family_of
from engine.domxml.plain import as_bool, as_list, as_mapping, as_text, as_texts, to_plain

OFFER_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformOffer:
    """What a host offers guests of one architecture and virt type."""

    architecture: str
    #: "kvm", "qemu", ...
    virt_type: str
    #: Paths; the first is libvirt's choice.
    emulators: tuple[str, ...]
    machines: tuple[str, ...]
    #: Such as "q35" -> "pc-q35-10.0".
    aliases: Mapping[str, str] = field(default_factory=dict)
    #: Modes that <cpu> may have.
    cpu_modes: tuple[str, ...] = ()
    #: Model -> features that keep it from being used here; None: it cannot be used, nobody knows why.
    cpu_models: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    #: Every feature that a guest can have here; None where the hypervisor does not say.
    cpu_features: tuple[str, ...] | None = None
    profiles: tuple[Profile, ...] = ()

    def profile(self, machine: str) -> Profile | None:
        """Return what is offered with a machine type, by name or alias; None where nobody asked."""
        family = family_of(self.aliases.get(machine, machine))
        return next((profile for profile in self.profiles if profile.family == family), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCapabilities:
    """What one host can run."""

    libvirt_version: str
    hypervisor_version: str
    cpu: HostCpu
    #: "uid:gid" that QEMU runs as where libvirt changes to another user; else empty.
    qemu_user: str = ""
    platforms: tuple[PlatformOffer, ...] = ()
    #: All platforms of the host are here.
    is_complete: bool = True
    #: Made for one guest on this very host: files that are not listed are not there.
    is_exact: bool = False

    def platform(self, architecture: str, virt_type: str) -> PlatformOffer | None:
        """Return what is offered to such guests; None where there is nothing."""
        wanted = (architecture, virt_type)
        return next((each for each in self.platforms if (each.architecture, each.virt_type) == wanted), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"v": OFFER_VERSION, **to_plain(asdict(self))}


def parse_host_capabilities(document: object) -> HostCapabilities:
    """Return what a JSON object says; keys that only a newer version knows are passed over.

    Raises:
        ValueError: it is none of this version.
    """
    found = as_mapping(document)
    if found.get("v") != OFFER_VERSION:
        raise ValueError(f"capabilities of version {found.get('v')!r}, not {OFFER_VERSION}")
    return HostCapabilities(
        libvirt_version=as_text(found.get("libvirt_version")),
        hypervisor_version=as_text(found.get("hypervisor_version")),
        cpu=parse_host_cpu(found.get("cpu")),
        qemu_user=as_text(found.get("qemu_user")),
        platforms=tuple(_parse_platform(each) for each in as_list(found.get("platforms"))),
        is_complete=as_bool(found.get("is_complete")),
        is_exact=as_bool(found.get("is_exact")),
    )


def parse_host_cpu(document: object) -> HostCpu:
    """Return the processor that a JSON object describes.

    Raises:
        ValueError: it describes none.
    """
    found = as_mapping(document)
    return HostCpu(
        architecture=as_text(found.get("architecture")),
        model=as_text(found.get("model")),
        vendor=as_text(found.get("vendor")),
        signature=as_text(found.get("signature")),
        features=as_texts(found.get("features")),
    )


def _parse_platform(document: object) -> PlatformOffer:
    found = as_mapping(document)
    models, features = as_mapping(found.get("cpu_models")), found.get("cpu_features")
    return PlatformOffer(
        architecture=as_text(found.get("architecture")),
        virt_type=as_text(found.get("virt_type")),
        emulators=as_texts(found.get("emulators")),
        machines=as_texts(found.get("machines")),
        aliases={alias: as_text(name) for alias, name in as_mapping(found.get("aliases")).items()},
        cpu_modes=as_texts(found.get("cpu_modes")),
        cpu_models={
            model: None if blockers is None else as_texts(blockers) for model, blockers in models.items()
        },
        cpu_features=None if features is None else as_texts(features),
        profiles=tuple(_parse_profile(each) for each in as_list(found.get("profiles"))),
    )


def _parse_profile(document: object) -> Profile:
    found = as_mapping(document)
    return Profile(
        family=as_text(found.get("family")),
        devices={key: as_texts(values) for key, values in as_mapping(found.get("devices")).items()},
        loaders=as_texts(found.get("loaders")),
    )
