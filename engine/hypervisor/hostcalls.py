"""Ask a libvirt connection what its host can run.

Source: https://libvirt.org/html/libvirt-libvirt-host.html; error text of
src/cpu/cpu_x86.c, virCPUx86Compare().
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from engine.errors import EngineError
from engine.hypervisor.port import CpuMatch, Platform

#: virErrorNumber VIR_ERR_CPU_INCOMPATIBLE.
CPU_INCOMPATIBLE: Final = 91
#: VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE: an error that names what is missing, not a plain no.
_FAIL_INCOMPATIBLE: Final = 1
#: VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES.
_EXPAND_FEATURES: Final = 1
#: What stands before the names in libvirt's error.
_LACKING: Final = "required features: "


def cpu_match(reason: str) -> CpuMatch:
    """Return the answer that libvirt's words for an incompatible processor mean."""
    _, is_named, names = reason.partition(_LACKING)
    return CpuMatch(
        is_compatible=False,
        lacking=tuple(name.strip() for name in names.split(",")) if is_named else (),
        reason=reason,
    )


class HostCalls(ABC):
    """The port's calls about the host; whoever has the connection gives it."""

    @abstractmethod
    def _ask_host(self, question: Callable[[Any], Any]) -> Any:
        """Return the connection's answer; EngineError for the library's."""

    def capabilities(self) -> str:
        """Return the <capabilities> of the host."""
        return str(self._ask_host(lambda conn: conn.getCapabilities()))

    def domain_capabilities(self, platform: Platform) -> str:
        """Return the <domainCapabilities> of guests on a platform."""
        return str(self._ask_host(lambda conn: conn.getDomainCapabilities(*_arguments(platform))))

    def compare_cpu(self, platform: Platform, cpu_xml: str) -> CpuMatch:
        """Say whether guests on a platform can have a <cpu>."""
        try:
            self._ask_host(
                lambda conn: conn.compareHypervisorCPU(*_arguments(platform), cpu_xml, _FAIL_INCOMPATIBLE)
            )
        except EngineError as error:
            if error.libvirt_code != CPU_INCOMPATIBLE:
                raise
            return cpu_match(error.found)
        return CpuMatch(is_compatible=True)

    def expand_cpu(self, platform: Platform, cpu_xml: str) -> str:
        """Return a <cpu> with every feature spelled out."""
        return str(
            self._ask_host(
                lambda conn: conn.baselineHypervisorCPU(*_arguments(platform), [cpu_xml], _EXPAND_FEATURES)
            )
        )


def _arguments(platform: Platform) -> tuple[str | None, str, str | None, str]:
    return platform.emulator, platform.architecture, platform.machine, platform.virt_type
