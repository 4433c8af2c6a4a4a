"""Choose the driver for a connection URI."""

from __future__ import annotations

from engine.hypervisor.port import Hypervisor


def connect(uri: str, *, read_only: bool = False) -> Hypervisor:
    """Return a connection to the hypervisor behind the URI; `sim:///...` is a simulated one.

    Raises:
        HypervisorUnreachableError: nobody answers there.
    """
    if uri.startswith("sim:"):
        from engine.hypervisor.sim.hypervisor import SimHypervisor

        return SimHypervisor(uri, read_only=read_only)
    from engine.hypervisor.libvirt import LibvirtHypervisor

    return LibvirtHypervisor(uri, read_only=read_only)
