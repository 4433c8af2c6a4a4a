"""Tell what the guest sees of its processors: how many, of which model, with which features.

Source: libvirt src/conf/domain_conf.c, virDomainDefVcpuCheckAbiStability(); src/conf/cpu_conf.c,
virCPUDefIsEqual(); src/qemu/qemu_postparse.c, qemuDomainDefCPUPostParse().
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from engine.domxml.abi.table import Element, Group, Table, Visible, free, same
from engine.domxml.abi.values import count, default, find_at, number, own_text, present, text_at

_MODEL: Final = "the guest would have another model of processor"
_TOPOLOGY: Final = "the guest sees how its processors are put together"
_UNCOMPARED_MODES: Final = frozenset({"host-passthrough", "maximum"})
_PINNING: Final = "where the host runs the guest's processors"


def _most(domain: Element) -> Hashable:
    found = find_at(domain, "vcpu")
    return 1 if found is None else number(own_text(found).strip())


def _current(domain: Element) -> Hashable:
    """Return how many of the processors the guest has now; it does not count where each is listed."""
    if domain.find("vcpus/vcpu") is not None:
        return None
    current = text_at(domain, "vcpu/@current")
    return _most(domain) if current is None else number(current)


def _listed(domain: Element) -> Hashable:
    """Return which processors the guest has now, and in which order it got them."""
    return tuple(
        sorted(
            (vcpu.get("id", ""), vcpu.get("enabled", ""), vcpu.get("order", ""))
            for vcpu in domain.iterfind("vcpus/vcpu")
        )
    )


def _check(domain: Element) -> Hashable:
    """Return how libvirt compares the processor with the host's; untold, it goes by the mode."""
    cpu = find_at(domain, "cpu")
    if cpu is None or cpu.get("check") is not None:
        return None if cpu is None else cpu.get("check")
    mode = cpu.get("mode", "custom")
    is_emulated = mode == "custom" and domain.get("type") == "qemu"
    return "none" if is_emulated or mode in _UNCOMPARED_MODES else "partial"


FEATURE: Final = Table(
    visible=(
        same("@name", "libvirt compares the features of the processor in their order"),
        same("@policy", "the guest's processor would have the feature, or not", default("require")),
    )
)
VISIBLE: Final[tuple[Visible, ...]] = (
    Visible(
        paths=("vcpu",), read=_most, reason="the guest would have another number of processors"
    ),
    Visible(
        paths=("vcpu/@current",), read=_current, reason="the guest would have other processors",
        rest="each processor is listed",
    ),
    Visible(paths=("vcpus/**",), read=_listed, reason="the guest would have other processors"),
    same("cpu", "the guest would have another processor", present),
    same("cpu/@mode", "the guest would have another processor", default("custom")),
    Visible(
        paths=("cpu/@check",), read=_check,
        reason="libvirt checks the processor in another way: dump a running guest with --migratable",
    ),
    same("cpu/arch", "the guest would have another processor"),
    same("cpu/model", _MODEL),
    same("cpu/model/@vendor_id", "the guest sees the processor's vendor"),
    same("cpu/vendor", "the guest sees the processor's vendor"),
    *(same(f"cpu/topology/@{part}", _TOPOLOGY, count) for part in ("sockets", "cores", "threads")),
    *(same(f"cpu/topology/@{part}", _TOPOLOGY, default("1", number)) for part in ("dies", "clusters")),
    same("cpu/maxphysaddr", "the guest sees how wide addresses are", present),
    same("cpu/maxphysaddr/@mode", "the guest sees how wide addresses are"),
    same("cpu/maxphysaddr/@bits", "the guest sees how wide addresses are", count),
    same("cpu/cache", "the guest sees the processor's caches", present),
    same("cpu/cache/@level", "the guest sees the processor's caches", number),
    same("cpu/cache/@mode", "the guest sees the processor's caches"),
)  # fmt: skip
FREE: Final = (
    *free("libvirt's ways to choose a processor", "cpu/@match", "cpu/model/@fallback", "cpu/@migratable"),
    *free("libvirt's ways to choose a processor", "cpu/@deprecated_features", "cpu/maxphysaddr/@limit"),
    *free(_PINNING, "vcpu/@placement", "vcpu/@cpuset", "cputune", "numatune", "iothreads", "iothreadids"),
    *free(_PINNING, "defaultiothread"),
    *free("how the host plugs processors in", "vcpus/vcpu/@hotpluggable"),
)
FEATURES: Final = Group(path="cpu/feature", table=FEATURE, noun="processor feature")
