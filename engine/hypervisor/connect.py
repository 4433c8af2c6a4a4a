"""Choose the driver for a connection URI."""

from __future__ import annotations

from engine.hypervisor.libvirt import LibvirtHypervisor
from engine.hypervisor.port import Hypervisor


def connect(uri: str, *, read_only: bool = False) -> Hypervisor:
    """Return a connection to the hypervisor behind the URI.

    Raises:
        HypervisorUnreachableError: nobody answers there.
    """
    return LibvirtHypervisor(uri, read_only=read_only)
