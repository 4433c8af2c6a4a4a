"""Compare what a guest needs with what a host can run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from engine.domxml.capabilities import family_of
from engine.domxml.enumerated import ENUMERATED
from engine.domxml.offer import HostCapabilities, PlatformOffer
from engine.domxml.requirements import CpuNeed, Requirements

#: Value of Missing.what for processor features, which a hypervisor can be asked about again.
CPU_FEATURES: Final = "CPU features"
_NUMBERS: Final = re.compile(r"[0-9]+")
#: Features that libvirt leaves out of what it says guests can have, since few guests may move with them.
_UNLISTED: Final = frozenset({"invtsc"})
_OTHER_HOST: Final = "choose another host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One thing that a guest needs and a host lacks."""

    #: "machine type", "CPU features", "video model", ...
    what: str
    wanted: str
    #: What the host has.
    found: str
    hint: str = ""
    #: The hypervisor would refuse; else nobody can tell from here.
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{self.what} {self.wanted} ({self.found})"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "what": self.what,
            "wanted": self.wanted,
            "found": self.found,
            "hint": self.hint,
            "certain": self.is_certain,
        }


def list_missing(needed: Requirements, host: HostCapabilities) -> tuple[Missing, ...]:
    """Return everything that the host lacks for the guest; empty where it can take it."""
    if not needed.architecture:
        return (Missing(what="architecture", wanted="one", found="the image does not say", is_certain=False),)
    platform = host.platform(needed.architecture, needed.virt_type)
    if platform is None:
        return (_missing_platform(needed, host),)
    return (
        *_missing_emulator(needed, host, platform),
        *_missing_machine(needed, host, platform),
        *_missing_cpu(needed, host, platform),
        *_missing_firmware(needed, host, platform),
        *_missing_devices(needed, platform),
    )


def has_newer_hypervisor(needed: Requirements, host: HostCapabilities) -> bool:
    """Tell whether the guest was saved by a newer hypervisor than the host's.

    That alone keeps nobody from restoring it: the machine type decides.
    """
    return bool(needed.saved_by) and _numbers(needed.saved_by) > _numbers(host.hypervisor_version)


def _missing_platform(needed: Requirements, host: HostCapabilities) -> Missing:
    types = [each.virt_type for each in host.platforms if each.architecture == needed.architecture]
    if types:
        return Missing(
            what="virt type",
            wanted=f"{needed.virt_type} for {needed.architecture}",
            found=f"the host runs {_listed(types)}",
            hint="may libvirt's user open /dev/kvm there?" if needed.virt_type == "kvm" else _OTHER_HOST,
        )
    architectures = dict.fromkeys(each.architecture for each in host.platforms)
    return Missing(
        what="architecture",
        wanted=needed.architecture,
        found=f"the host runs {_listed(architectures)}",
        hint="install its QEMU, or choose another host",
        is_certain=host.is_complete,
    )


def _missing_emulator(
    needed: Requirements, host: HostCapabilities, platform: PlatformOffer
) -> Iterator[Missing]:
    if needed.emulator and needed.emulator not in platform.emulators:
        yield Missing(
            what="emulator",
            wanted=needed.emulator,
            found=f"the host offers {_listed(platform.emulators)}",
            hint="give a dxml with the host's own <emulator>",
            is_certain=host.is_exact,
        )


def _missing_machine(
    needed: Requirements, host: HostCapabilities, platform: PlatformOffer
) -> Iterator[Missing]:
    machine = needed.machine
    if not machine or machine in platform.machines or machine in platform.aliases:
        return
    family = family_of(machine)
    same = sorted((each for each in platform.machines if family_of(each) == family), key=_numbers)
    if not same:
        known, hint = f"no type of {family}", _OTHER_HOST
    elif _numbers(machine) > _numbers(same[-1]):
        known = f"types up to {same[-1]}"
        hint = f"it takes a newer QEMU, as the one that saved it ({needed.saved_by or 'not known'})"
    else:
        known, hint = f"types from {same[0]} to {same[-1]}", "this QEMU has dropped the type, or never had it"
    yield Missing(
        what="machine type",
        wanted=machine,
        found=f"QEMU {host.hypervisor_version} has {known}",
        hint=hint,
    )


def _missing_cpu(needed: Requirements, host: HostCapabilities, platform: PlatformOffer) -> Iterator[Missing]:
    cpu = needed.cpu
    if cpu is None:
        return
    if platform.cpu_modes and cpu.mode not in platform.cpu_modes:
        yield Missing(
            what="CPU mode",
            wanted=cpu.mode,
            found=f"{needed.virt_type} guests get {_listed(platform.cpu_modes)} here",
            hint=_OTHER_HOST,
        )
    elif needed.depends_on_host_cpu:
        yield from _other_host_cpu(needed, host)
    elif cpu.model and platform.cpu_models and cpu.model not in platform.cpu_models:
        yield Missing(
            what="CPU model",
            wanted=cpu.model,
            found=f"QEMU {host.hypervisor_version} and libvirt {host.libvirt_version} do not know it",
            hint=_OTHER_HOST,
        )
    elif lacking := _lacking_features(cpu, needed.virt_type, host, platform):
        yield missing_features(cpu, lacking)
    elif platform.cpu_models.get(cpu.model, ()) is None and not cpu.disabled:
        yield Missing(
            what="CPU model",
            wanted=cpu.model,
            found="the host's processor lacks some of it",
            is_certain=False,
        )


def missing_features(cpu: CpuNeed, names: list[str]) -> Missing:
    """Return what a host lacks that has not got these features of a guest's processor."""
    return Missing(
        what=CPU_FEATURES,
        wanted=", ".join(names),
        found=f"the guest has them, the host's {cpu.model} has not",
        hint="choose a host with the same or a newer processor",
        # Unchecked, QEMU starts without them, and the guest may find out.
        is_certain=cpu.check != "none",
    )


def _lacking_features(
    cpu: CpuNeed, virt_type: str, host: HostCapabilities, platform: PlatformOffer
) -> list[str]:
    """Return the features that the guest has and the host cannot give, sorted."""
    lacking = set(platform.cpu_models.get(cpu.model) or ()) - set(cpu.disabled)
    if platform.cpu_features is not None:
        lacking |= set(cpu.required) - set(platform.cpu_features)
    return without_unlisted(lacking, virt_type, host)


def without_unlisted(names: Iterable[str], virt_type: str, host: HostCapabilities) -> list[str]:
    """Return the names, sorted, of features that the host lacks for certain."""
    hidden = _UNLISTED & set(host.cpu.features) if virt_type == "kvm" else frozenset()
    return sorted(set(names) - hidden)


def _other_host_cpu(needed: Requirements, host: HostCapabilities) -> Iterator[Missing]:
    """Compare hosts: the guest was given the processor of the one that saved it."""
    assert needed.cpu is not None
    what, here = f"host CPU ({needed.cpu.mode})", host.cpu
    if needed.virt_type != "kvm":
        # Emulated, it is as much as that QEMU could do.
        if needed.saved_by != host.hypervisor_version:
            found = f"QEMU {host.hypervisor_version} here"
            yield Missing(
                what=what, wanted=f"of QEMU {needed.saved_by or '?'}", found=found, is_certain=False
            )
        return
    saved = needed.host_cpu
    if saved is None:
        yield Missing(
            what=what,
            wanted="as on the host that saved it",
            found="nobody wrote down which that was",
            is_certain=False,
        )
        return
    lacking = sorted(set(saved.features) - set(here.features))
    names = [f"{cpu.vendor} {cpu.model} {cpu.signature}".strip() for cpu in (saved, here)]
    if (saved.architecture, saved.vendor) != (here.architecture, here.vendor) or (
        saved.signature and here.signature and saved.signature != here.signature
    ):
        yield Missing(
            what=what,
            wanted=names[0],
            found=f"the host has {names[1]}",
            hint="choose a host with the same one",
        )
    elif lacking:
        yield Missing(
            what=what,
            wanted=f"with {', '.join(lacking)}",
            found=f"the host's {names[1]} lacks them",
            hint="same microcode, same kernel?",
        )


def _missing_firmware(
    needed: Requirements, host: HostCapabilities, platform: PlatformOffer
) -> Iterator[Missing]:
    profile, firmware = platform.profile(needed.machine), needed.firmware
    if profile is not None and firmware.loader and firmware.loader not in profile.loaders:
        secure = " (secure boot)" if firmware.is_secure else ""
        yield Missing(
            what="firmware",
            wanted=f"{firmware.loader}{secure}",
            found=f"libvirt knows {_listed(profile.loaders)}",
            hint="install the firmware package that the saving host had",
            is_certain=host.is_exact,
        )


def _missing_devices(needed: Requirements, platform: PlatformOffer) -> Iterator[Missing]:
    profile = platform.profile(needed.machine)
    if profile is None:
        return
    for key, wanted in needed.devices.items():
        offered = profile.devices.get(key)
        if offered is None or key not in ENUMERATED:
            continue
        for value in wanted:
            if value not in offered:
                yield Missing(
                    what=ENUMERATED[key].words,
                    wanted=value,
                    found=f"the host has {_listed(offered)}",
                    hint="install the QEMU module or program that brings it",
                )


def _listed(names: Iterable[str]) -> str:
    """Return names with commas, "none" for none."""
    return ", ".join(names) or "none"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBERS.findall(version))
