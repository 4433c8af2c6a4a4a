"""Stand in for the part of a hypervisor that says what its host can run."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import EngineError, NotSupportedError
from engine.hypervisor.port import CpuMatch, Platform, Versions
from tests.data.host_documents import CAPABILITIES, DOMAIN, DOMAIN_CAPABILITIES


class PaperHypervisor:
    """Says what is on paper: a host with KVM, TCG and another architecture."""

    driver = "qemu"

    def __init__(self, *, domain_xml: str = DOMAIN) -> None:
        self.asked: list[Platform] = []
        self.xml = domain_xml
        self.compared: list[tuple[Platform, str]] = []
        self.verdict: CpuMatch | EngineError = CpuMatch(is_compatible=True)
        #: Platforms that it does not know, and what it says then.
        self.refuses: Callable[[Platform], EngineError | None] = lambda _platform: None
        self.expanded = "<cpu><feature name='sse2'/><feature policy='disable' name='monitor'/></cpu>"

    def versions(self) -> Versions:
        """Return made-up versions."""
        return Versions(libvirt="11.3.0", hypervisor="9.2.0")

    def capabilities(self) -> str:
        """Return the document."""
        return CAPABILITIES

    def domain_capabilities(self, platform: Platform) -> str:
        """Return the document, for the machine that was asked about."""
        self.asked.append(platform)
        if error := self.refuses(platform):
            raise error
        text = DOMAIN_CAPABILITIES
        if platform.emulator:
            text = text.replace("/usr/bin/qemu-system-x86_64", platform.emulator)
        return text.replace("pc-q35-9.2", platform.machine) if platform.machine else text

    def expand_cpu(self, platform: Platform, cpu_xml: str) -> str:
        """Return a document."""
        del platform
        assert "<model" in cpu_xml
        if not self.expanded:
            raise NotSupportedError("x", "cannot")
        return self.expanded

    def compare_cpu(self, platform: Platform, cpu_xml: str) -> CpuMatch:
        """Return the verdict, or raise it."""
        self.compared.append((platform, cpu_xml))
        if isinstance(self.verdict, EngineError):
            raise self.verdict
        return self.verdict

    def domain_xml(self, uuid: str, *, migratable: bool = False) -> str:
        """Return the one domain."""
        del uuid, migratable
        return self.xml
