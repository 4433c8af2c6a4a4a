"""Say what a simulated host can run, in libvirt's documents and with libvirt's refusals.

Source: https://libvirt.org/formatcaps.html, https://libvirt.org/formatdomaincaps.html
"""

from __future__ import annotations

from typing import Final

from lxml import etree

from engine.domxml.document import parse_domain_xml, parse_xml
from engine.hypervisor.hostcalls import CPU_INCOMPATIBLE
from engine.hypervisor.port import Platform
from engine.hypervisor.sim.codes import (
    CONFIG_UNSUPPORTED,
    INTERNAL_ERROR,
    INVALID_ARG,
    SYSTEM_ERROR,
    failure,
)
from engine.hypervisor.sim.settings import SimSettings

ARCHITECTURE: Final = "x86_64"
VIRT_TYPE: Final = "sim"
#: No file: nothing is ever run.
EMULATOR: Final = "/nonexistent/sim"
CPU_MODEL: Final = "sim-cpu"


def format_capabilities(settings: SimSettings) -> str:
    """Return the host's <capabilities>."""
    root = etree.Element("capabilities")
    cpu = etree.SubElement(etree.SubElement(root, "host"), "cpu")
    _add(cpu, "arch", ARCHITECTURE)
    _add(cpu, "model", CPU_MODEL)
    for name in settings.features:
        etree.SubElement(cpu, "feature", name=name)
    guest = etree.SubElement(root, "guest")
    _add(guest, "os_type", "hvm")
    arch = etree.SubElement(guest, "arch", name=ARCHITECTURE)
    _add(arch, "emulator", EMULATOR)
    for machine in settings.machines:
        _add(arch, "machine", machine)
    etree.SubElement(arch, "machine", canonical=settings.machines[0]).text = "sim"
    etree.SubElement(arch, "domain", type=VIRT_TYPE)
    return _text(root)


def format_domain_capabilities(settings: SimSettings, platform: Platform, where: str) -> str:
    """Return the <domainCapabilities> of guests on a platform.

    Raises:
        EngineError: the host has no such platform; of the class and with the number that libvirt's has.
    """
    root = etree.Element("domainCapabilities")
    _add(root, "path", EMULATOR)
    _add(root, "domain", VIRT_TYPE)
    _add(root, "machine", _check_platform(settings, platform, where))
    _add(root, "arch", ARCHITECTURE)
    cpu = etree.SubElement(root, "cpu")
    etree.SubElement(cpu, "mode", name="host-passthrough", supported="no")
    best = etree.SubElement(cpu, "mode", name="host-model", supported="yes")
    _add(best, "model", CPU_MODEL)
    for name in settings.features:
        etree.SubElement(best, "feature", policy="require", name=name)
    custom = etree.SubElement(cpu, "mode", name="custom", supported="yes")
    etree.SubElement(custom, "model", usable="yes").text = CPU_MODEL
    return _text(root)


def list_lacking(settings: SimSettings, platform: Platform, cpu_xml: str, where: str) -> list[str]:
    """Return the features of a <cpu> that the host lacks.

    Raises:
        EngineError: the host has no such platform, or does not know the model.
    """
    _check_platform(settings, platform, where)
    cpu = parse_xml(cpu_xml, root="cpu", where=where)
    model = cpu.findtext("model")
    if model is not None and model != CPU_MODEL:
        raise failure(INTERNAL_ERROR, where, f"internal error: Unknown CPU model {model}")
    wanted = [each.get("name", "") for each in cpu.iterfind("feature") if each.get("policy") == "require"]
    return [name for name in wanted if name not in settings.features]


def expand(settings: SimSettings, platform: Platform, cpu_xml: str, where: str) -> str:
    """Return a <cpu> with all its features, which a simulated model has none of.

    Raises:
        EngineError: the host cannot give guests such a processor.
    """
    lacking = list_lacking(settings, platform, cpu_xml, where)
    if lacking:
        raise failure(CPU_INCOMPATIBLE, where, f"the CPU lacks {', '.join(lacking)}")
    return cpu_xml


def check_machine(settings: SimSettings, xml: str, where: str) -> None:
    """Refuse a domain XML whose machine type the host has not.

    Raises:
        AbiError: so it is, with libvirt's number for an unsupported configuration.
    """
    os_type = parse_domain_xml(xml, where=where).find("os/type")
    machine = "" if os_type is None else os_type.get("machine", "")
    if machine and machine not in {*settings.machines, "sim"}:
        found = f"unsupported configuration: Emulator '{EMULATOR}' does not support machine type '{machine}'"
        raise failure(CONFIG_UNSUPPORTED, where, found)


def _check_platform(settings: SimSettings, platform: Platform, where: str) -> str:
    """Return the machine type's own name; refuse a platform in libvirt's order."""
    if platform.emulator not in {None, EMULATOR}:
        found = f"Cannot check QEMU binary {platform.emulator}: No such file or directory"
        raise failure(SYSTEM_ERROR, where, found)
    if platform.architecture != ARCHITECTURE:
        found = f"unable to find any emulator to serve '{platform.architecture}' architecture"
        raise failure(CONFIG_UNSUPPORTED, where, f"unsupported configuration: {found}")
    if platform.virt_type != VIRT_TYPE:
        found = f"the accel '{platform.virt_type}' is not supported by '{EMULATOR}' on this host"
        raise failure(INVALID_ARG, where, f"invalid argument: {found}")
    machine = platform.machine or "sim"
    if machine not in {*settings.machines, "sim"}:
        found = f"the machine '{machine}' is not supported by emulator '{EMULATOR}'"
        raise failure(INVALID_ARG, where, f"invalid argument: {found}")
    return settings.machines[0] if machine == "sim" else machine


def _add(parent: etree._Element, tag: str, text: str) -> None:
    etree.SubElement(parent, tag).text = text


def _text(root: etree._Element) -> str:
    return etree.tostring(root, encoding="unicode", pretty_print=True)
