"""Read from a domain XML, and the cookie beside it, what a guest needs of the host it is restored on.

The cookie counts for the processor: it holds what the guest really got, while the XML
may still say less. libvirt puts it in the XML's place when it restores.

Source: libvirt src/qemu/qemu_domain.c, qemuDomainFixupCPUs(); src/qemu/qemu_process.c,
qemuProcessUpdateGuestCPU().
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lxml import etree

from engine.domxml.capabilities import HostCpu
from engine.domxml.document import parse_domain_xml, parse_xml
from engine.domxml.enumerated import ENUMERATED
from engine.domxml.offer import parse_host_cpu
from engine.domxml.plain import as_bool, as_mapping, as_text, as_texts, to_plain
from engine.errors import DomainXmlError

REQUIREMENTS_VERSION: Final = 1
#: Names of features that libvirt strikes out of every definition: QEMU has no switch for them.
_STRUCK_OUT: Final = frozenset({"cmt", "mbm_total", "mbm_local", "osxsave", "ospke"})
#: What a policy means once the guest has run: a forced feature that it has, it goes on to need.
_POLICIES: Final = {"require": "require", "force": "require", "disable": "disable", "forbid": "disable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuNeed:
    """The processor a guest has."""

    #: "custom", "host-passthrough", "maximum", "host-model".
    mode: str
    #: Empty where the mode says it all.
    model: str = ""
    vendor: str = ""
    #: How far libvirt looks whether the guest gets it: "none", "partial", "full".
    check: str = "none"
    required: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()

    def to_xml(self) -> str:
        """Return the <cpu> element, as far as a host has to have it."""
        cpu = etree.Element("cpu", mode=self.mode, match="exact")
        etree.SubElement(cpu, "model", fallback="forbid").text = self.model
        if self.vendor:
            etree.SubElement(cpu, "vendor").text = self.vendor
        for policy, names in (("require", self.required), ("disable", self.disabled)):
            for name in names:
                etree.SubElement(cpu, "feature", policy=policy, name=name)
        return etree.tostring(cpu, encoding="unicode")


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareNeed:
    """The firmware a guest was booted with."""

    #: Its file; empty where the machine type brings its own.
    loader: str = ""
    is_secure: bool = False
    #: The guest's own variables, and what they are made from where they are missing.
    nvram: str = ""
    template: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a guest needs of a host."""

    architecture: str
    #: "kvm", "qemu", ...
    virt_type: str
    machine: str
    #: Path of the emulator; empty where libvirt is to choose.
    emulator: str
    #: None where QEMU's own default is meant.
    cpu: CpuNeed | None = None
    firmware: FirmwareNeed = field(default_factory=FirmwareNeed)
    #: Key of ENUMERATED -> values.
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Version of the hypervisor that saved it; empty where nobody wrote it down.
    saved_by: str = ""
    #: Of the host that saved it, where the guest was given that one as it is.
    host_cpu: HostCpu | None = None

    @property
    def depends_on_host_cpu(self) -> bool:
        """True where the guest was given the host's own processor."""
        return self.cpu is not None and self.cpu.mode in {"host-passthrough", "maximum"}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {"v": REQUIREMENTS_VERSION, **to_plain(asdict(self))}


def read_requirements(
    domain_xml: str, cookie: str = "", *, where: str, saved_by: str = "", host_cpu: HostCpu | None = None
) -> Requirements:
    """Return what a guest needs.

    Args:
        domain_xml: as the guest was saved, or the dxml of the restore.
        cookie: what libvirt wrote behind it; empty where it wrote none.
        where: named in errors.
        saved_by: version of the hypervisor that saved it.
        host_cpu: processor of the host that saved it.

    Raises:
        DomainXmlError: one of the two is not what it should be.
    """
    root = parse_domain_xml(domain_xml, where=where)
    os_type = root.find("os/type")
    return Requirements(
        architecture="" if os_type is None else os_type.get("arch", ""),
        virt_type=root.get("type", ""),
        machine="" if os_type is None else os_type.get("machine", ""),
        emulator=(root.findtext("devices/emulator") or "").strip(),
        cpu=_cpu_need(root, cookie, where),
        firmware=_firmware_need(root),
        devices=_devices(root),
        saved_by=saved_by,
        host_cpu=host_cpu,
    )


def describe_requirements(
    domain_xml: str, cookie: str, *, where: str, saved_by: str, host_cpu: HostCpu | None
) -> dict[str, Any]:
    """Return what a guest needs as a JSON object.

    Empty where nobody understands the cookie: that is no reason to lose an image.
    """
    try:
        return read_requirements(
            domain_xml, cookie, where=where, saved_by=saved_by, host_cpu=host_cpu
        ).to_dict()
    except DomainXmlError:
        return {}


def parse_requirements(document: object) -> Requirements:
    """Return what a JSON object says; keys that only a newer version knows are passed over.

    Raises:
        ValueError: it is none of this version.
    """
    found = as_mapping(document)
    if found.get("v") != REQUIREMENTS_VERSION:
        raise ValueError(f"requirements of version {found.get('v')!r}, not {REQUIREMENTS_VERSION}")
    cpu, host_cpu = found.get("cpu"), found.get("host_cpu")
    return Requirements(
        architecture=as_text(found.get("architecture")),
        virt_type=as_text(found.get("virt_type")),
        machine=as_text(found.get("machine")),
        emulator=as_text(found.get("emulator")),
        cpu=None if cpu is None else _parse_cpu(as_mapping(cpu)),
        firmware=_parse_firmware(as_mapping(found.get("firmware"))),
        devices={key: as_texts(values) for key, values in as_mapping(found.get("devices")).items()},
        saved_by=as_text(found.get("saved_by")),
        host_cpu=None if host_cpu is None else parse_host_cpu(host_cpu),
    )


def known_host_cpu(document: object) -> HostCpu | None:
    """Return the processor of the host that saved a guest; None where its requirements do not say."""
    try:
        return parse_requirements(document).host_cpu
    except ValueError:
        return None  # of an older manifest, or in a newer one's words


def _cpu_need(root: etree._Element, cookie: str, where: str) -> CpuNeed | None:
    cpu = parse_xml(cookie, root="cookie", where=f"cookie of {where}").find("cpu") if cookie else None
    if cpu is None:
        cpu = root.find("cpu")
    if cpu is None:
        return None
    model = (cpu.findtext("model") or "").strip()
    # A host-model that was written with a model is a custom one that the host chose.
    mode = cpu.get("mode", "custom" if model else "")
    if mode == "host-model" and model:
        mode = "custom"
    if not mode or (mode == "custom" and not model):
        return None
    features: dict[str, list[str]] = {"require": [], "disable": []}
    for feature in cpu.iterfind("feature"):
        policy, name = _POLICIES.get(feature.get("policy", "require")), feature.get("name", "")
        if policy is not None and name not in _STRUCK_OUT:
            features[policy].append(name)
    return CpuNeed(
        mode=mode,
        model=model,
        vendor=(cpu.findtext("vendor") or "").strip(),
        check=cpu.get("check", "none"),
        required=tuple(features["require"]),
        disabled=tuple(features["disable"]),
    )


def _firmware_need(root: etree._Element) -> FirmwareNeed:
    loader, nvram = root.find("os/loader"), root.find("os/nvram")
    return FirmwareNeed(
        loader="" if loader is None else (loader.text or "").strip(),
        is_secure=loader is not None and loader.get("secure") == "yes",
        nvram="" if nvram is None else (nvram.text or "").strip(),
        template="" if nvram is None else nvram.get("template", ""),
    )


def _devices(root: etree._Element) -> dict[str, tuple[str, ...]]:
    """Return the kinds of devices that a host may or may not have."""
    wanted: dict[str, tuple[str, ...]] = {}
    for key, enumerated in ENUMERATED.items():
        found = root.xpath(enumerated.wanted)
        assert isinstance(found, list)
        kinds = sorted({str(value) for value in found} & enumerated.judged)
        if kinds:
            wanted[key] = tuple(kinds)
    return wanted


def _parse_cpu(found: Mapping[str, Any]) -> CpuNeed:
    return CpuNeed(
        mode=as_text(found.get("mode")),
        model=as_text(found.get("model")),
        vendor=as_text(found.get("vendor")),
        check=as_text(found.get("check")),
        required=as_texts(found.get("required")),
        disabled=as_texts(found.get("disabled")),
    )


def _parse_firmware(found: Mapping[str, Any]) -> FirmwareNeed:
    return FirmwareNeed(
        loader=as_text(found.get("loader")),
        is_secure=as_bool(found.get("is_secure")),
        nvram=as_text(found.get("nvram")),
        template=as_text(found.get("template")),
    )
