"""Read what a host can run from libvirt's capability documents; keep it as values that travel as JSON.

Source: https://libvirt.org/formatcaps.html, https://libvirt.org/formatdomaincaps.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from lxml import etree

from engine.domxml.document import parse_xml
from engine.domxml.enumerated import ENUMERATED

#: libvirt's names of the two families that x86 has, whatever a distribution puts behind them.
_X86_FAMILIES: Final = ("pc-i440fx", "pc-q35")
_VERSION_AT_END: Final = re.compile(r"-[a-z]*\d[\w.]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCpu:
    """The processor of a host as libvirt knows it."""

    architecture: str
    model: str = ""
    vendor: str = ""
    #: CPUID family and model, such as "26/2"; empty where libvirt does not say.
    signature: str = ""
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestKind:
    """An architecture and a virt type for which a host has an emulator."""

    architecture: str
    #: "kvm", "qemu", ...
    virt_type: str
    emulator: str
    machines: tuple[str, ...]
    #: Such as "q35" -> "pc-q35-10.0".
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What virConnectGetCapabilities says, as far as guests depend on it."""

    cpu: HostCpu
    #: "uid:gid" that QEMU runs as where libvirt changes to another user; else empty.
    qemu_user: str
    kinds: tuple[GuestKind, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What an emulator offers with one family of machine types."""

    #: Such as "pc-q35".
    family: str
    #: Key of ENUMERATED -> values; a key that libvirt says nothing of is not there.
    devices: Mapping[str, tuple[str, ...]]
    #: Firmware files that libvirt knows of.
    loaders: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuOffer:
    """Which processors an emulator offers to guests."""

    #: "custom", "host-model", "host-passthrough", "maximum": those that are supported.
    modes: tuple[str, ...]
    #: Model -> features that keep it from being used here; None: it cannot be used, nobody knows why.
    models: Mapping[str, tuple[str, ...] | None]
    #: <cpu> of mode host-model: the best that guests can get here; empty where libvirt does not say.
    host_model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorFacts:
    """What virConnectGetDomainCapabilities says of one emulator and machine type."""

    emulator: str
    #: Canonical name.
    machine: str
    cpu: CpuOffer
    profile: Profile


def parse_capabilities(text: str, *, where: str) -> HostFacts:
    """Return what a <capabilities> document says.

    Raises:
        DomainXmlError: it is none.
    """
    root = parse_xml(text, root="capabilities", where=where)
    return HostFacts(
        cpu=_host_cpu(root.find("host/cpu")), qemu_user=_qemu_user(root), kinds=tuple(_guest_kinds(root))
    )


def parse_domain_capabilities(text: str, *, where: str) -> EmulatorFacts:
    """Return what a <domainCapabilities> document says.

    Raises:
        DomainXmlError: it is none.
    """
    root = parse_xml(text, root="domainCapabilities", where=where)
    machine = _text(root, "machine")
    return EmulatorFacts(
        emulator=_text(root, "path"),
        machine=machine,
        cpu=_cpu_offer(root.find("cpu")),
        profile=Profile(
            family=family_of(machine),
            devices=_devices(root),
            loaders=tuple(_text(value) for value in root.iterfind("os/loader/value")),
        ),
    )


def parse_cpu_features(text: str, *, where: str) -> frozenset[str]:
    """Return the features that a <cpu> element with all of them spelled out has.

    Raises:
        DomainXmlError: it is none.
    """
    return frozenset(
        feature.get("name", "")
        for feature in parse_xml(text, root="cpu", where=where).iterfind("feature")
        if feature.get("policy", "require") in {"require", "force"}
    )


def family_of(machine: str) -> str:
    """Return a machine type without its version: "pc-q35-10.0" is one of "pc-q35"."""
    for family in _X86_FAMILIES:
        if machine.startswith(f"{family}-"):
            return family
    return _VERSION_AT_END.sub("", machine)


def _text(element: etree._Element, path: str = ".") -> str:
    return (element.findtext(path) or "").strip()


def _host_cpu(cpu: etree._Element | None) -> HostCpu:
    if cpu is None:
        return HostCpu(architecture="")
    signature = cpu.find("signature")
    return HostCpu(
        architecture=_text(cpu, "arch"),
        model=_text(cpu, "model"),
        vendor=_text(cpu, "vendor"),
        signature="" if signature is None else f"{signature.get('family')}/{signature.get('model')}",
        features=tuple(feature.get("name", "") for feature in cpu.iterfind("feature")),
    )


def _qemu_user(root: etree._Element) -> str:
    """Return the label of QEMU's processes: "+107:+107" means the numbers 107 and 107."""
    for model in root.iterfind("host/secmodel"):
        if _text(model, "model") == "dac":
            labels = {label.get("type", ""): _text(label) for label in model.iterfind("baselabel")}
            return (labels.get("kvm") or labels.get("qemu") or "").replace("+", "")
    return ""


def _guest_kinds(root: etree._Element) -> Iterable[GuestKind]:
    for arch in root.iterfind("guest/arch"):
        machines = list(arch.iterfind("machine"))
        for domain in arch.iterfind("domain"):
            # An emulator of its own may have machine types of its own.
            own = list(domain.iterfind("machine")) or machines
            yield GuestKind(
                architecture=arch.get("name", ""),
                virt_type=domain.get("type", ""),
                emulator=_text(domain, "emulator") or _text(arch, "emulator"),
                machines=tuple(dict.fromkeys(_text(machine) for machine in own)),
                aliases={
                    _text(machine): machine.get("canonical", "")
                    for machine in own
                    if machine.get("canonical")
                },
            )


def _cpu_offer(cpu: etree._Element | None) -> CpuOffer:
    modes = [] if cpu is None else [mode for mode in cpu.iterfind("mode") if mode.get("supported") == "yes"]
    blockers = {
        blocker.get("model", ""): tuple(feature.get("name", "") for feature in blocker.iterfind("feature"))
        for mode in modes
        for blocker in mode.iterfind("blockers")
    }
    models = {
        _text(model): () if model.get("usable") != "no" else blockers.get(_text(model))
        for mode in modes
        if mode.get("name") == "custom"
        for model in mode.iterfind("model")
    }
    host_model = next((mode for mode in modes if mode.get("name") == "host-model"), None)
    return CpuOffer(
        modes=tuple(mode.get("name", "") for mode in modes),
        models=models,
        host_model="" if host_model is None else _as_cpu(host_model),
    )


def _as_cpu(host_model: etree._Element) -> str:
    """Return the <cpu> that a host-model stands for; empty where libvirt knows none.

    In the form that guests have: in a host's form libvirt passes over what is switched off.
    """
    if not _text(host_model, "model"):
        return ""
    cpu = etree.Element("cpu", mode="custom", match="exact")
    for child in host_model:
        if child.tag in {"model", "vendor", "feature"}:
            etree.SubElement(cpu, child.tag, dict(child.attrib)).text = child.text
    return etree.tostring(cpu, encoding="unicode")


def _devices(root: etree._Element) -> dict[str, tuple[str, ...]]:
    """Return the values of everything that the document enumerates."""
    found: dict[str, tuple[str, ...]] = {}
    for key, enumerated in ENUMERATED.items():
        parent = root.find(enumerated.parent)
        if parent is None:
            continue
        listed = parent.find(f"enum[@name='{enumerated.enum}']")
        if parent.get("supported") == "no":
            found[key] = ()
        elif listed is not None:
            found[key] = tuple(_text(value) for value in listed.iterfind("value"))
    return found
