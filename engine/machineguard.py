"""See before a restore that this host can run the guest: machine, processor, firmware, devices.

libvirt sees most of it only once QEMU runs, one thing at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from engine.domxml.fitting import (
    CPU_FEATURES,
    Missing,
    has_newer_hypervisor,
    list_missing,
    missing_features,
    without_unlisted,
)
from engine.domxml.offer import HostCapabilities
from engine.domxml.requirements import Requirements, known_host_cpu, read_requirements
from engine.errors import EngineError, HypervisorUnreachableError, NotSupportedError
from engine.hostcaps import describe_host_for, platform_of
from engine.hypervisor.port import Hypervisor
from engine.store.images import OpenImage

#: Drivers that say what they can run.
_ANSWERING_DRIVERS: Final = frozenset({"qemu", "sim"})


def check_machine(hypervisor: Hypervisor, image: OpenImage, dxml: str | None) -> list[str]:
    """Refuse an image whose guest this host cannot run; return what nobody can tell beforehand.

    Args:
        hypervisor: of this host.
        image: with its manifest, where there is one.
        dxml: domain XML for the restore.

    Returns:
        Warnings, a sentence each.

    Raises:
        NotSupportedError: the host lacks something; the sentence lists all of it. Nothing was touched.
    """
    where = str(image.file.path)
    if hypervisor.driver not in _ANSWERING_DRIVERS:
        return []
    try:
        needed = _requirements(image, dxml, where)
        host = describe_host_for(hypervisor, needed)
        missing = list_missing(needed, _with_files(host, needed))
        missing = (*_ask_about_cpu(hypervisor, needed, host, missing), *_missing_variables(needed))
    except HypervisorUnreachableError:
        raise
    except EngineError as error:
        return [f"whether this host can run {where} could not be looked at: {error}"]
    lacking = [each for each in missing if each.is_certain]
    if lacking:
        raise NotSupportedError(
            where,
            f"this host cannot run it, it lacks {'; '.join(str(each) for each in lacking)}",
            hint="; ".join(dict.fromkeys(each.hint for each in lacking if each.hint)),
        )
    warnings = [f"this host may lack {each}" for each in missing]
    if has_newer_hypervisor(needed, host):
        warnings.append(
            f"saved by QEMU {needed.saved_by}, this host has {host.hypervisor_version}: the machine type "
            f"{needed.machine} decides, and is there"
        )
    return warnings


def _requirements(image: OpenImage, dxml: str | None, where: str) -> Requirements:
    manifest = image.manifest
    needed = read_requirements(
        image.head.domain_xml,
        image.head.cookie,
        where=where,
        saved_by="" if manifest is None else manifest.hypervisor_version,
        # Only whoever saved it could see the host's own processor.
        host_cpu=None if manifest is None else known_host_cpu(manifest.requirements),
    )
    if dxml is None:
        return needed
    # The machine stays what it was; a dxml says where its parts come from on this host.
    new = read_requirements(dxml, where="dxml")
    return replace(needed, emulator=new.emulator, firmware=new.firmware, devices=new.devices)


def _with_files(host: HostCapabilities, needed: Requirements) -> HostCapabilities:
    """Add the firmware file to what libvirt knows of if it is there all the same."""
    loader = needed.firmware.loader
    if not loader or not _is_there(loader):
        return host
    return replace(
        host,
        platforms=tuple(
            replace(
                platform,
                profiles=tuple(
                    replace(profile, loaders=(*profile.loaders, loader)) for profile in platform.profiles
                ),
            )
            for platform in host.platforms
        ),
    )


def _missing_variables(needed: Requirements) -> Iterator[Missing]:
    firmware = needed.firmware
    if not firmware.nvram or _is_there(firmware.nvram):
        return
    if firmware.template and not _is_there(firmware.template):
        yield Missing(
            what="firmware variables",
            wanted=firmware.nvram,
            found=f"neither it nor its template {firmware.template} is there",
            hint="bring them from the host that saved it",
        )


def _is_there(path: str) -> bool:
    """Tell whether there is such a file; one that this user may not look at is left to libvirt."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _ask_about_cpu(
    hypervisor: Hypervisor, needed: Requirements, host: HostCapabilities, missing: tuple[Missing, ...]
) -> tuple[Missing, ...]:
    """Return what is missing with libvirt's own word on the processor, which is the one that counts."""
    cpu = needed.cpu
    others = tuple(each for each in missing if each.what != CPU_FEATURES)
    if cpu is None or cpu.mode != "custom" or others:
        return missing
    try:
        match = hypervisor.compare_cpu(platform_of(needed), cpu.to_xml())
    except HypervisorUnreachableError:
        raise
    except EngineError:
        return missing  # it cannot compare such processors
    features = [each for each in missing if each.what == CPU_FEATURES]
    if match.is_compatible:
        return tuple(replace(each, is_certain=False) for each in features)
    if match.lacking:
        lacking = without_unlisted(match.lacking, needed.virt_type, host)
        return (missing_features(cpu, lacking),) if lacking else ()
    return (Missing(what="CPU", wanted=cpu.model, found=match.reason, is_certain=cpu.check != "none"),)
