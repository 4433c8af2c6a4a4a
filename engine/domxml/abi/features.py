"""Tell which features of hypervisor and firmware the guest sees.

Source: libvirt src/conf/domain_conf.c, virDomainDefFeaturesCheckABIStability(), virDomainFeaturesDefParse().
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from engine.domxml.abi.device import UNCHECKED
from engine.domxml.abi.table import Element, Visible, free
from engine.domxml.abi.values import Convert, count, find_at, number, plain, size, text_at

_REASON: Final = "the guest has seen the feature, or has not"
# Present is on; there is no other word for them.
_PLAIN: Final = ("acpi", "pae", "viridian", "privnet")
# On, unless they say something else.
_SWITCHES: Final = (
    "hap", "pvspinlock", "pmu", "vmport", "smm", "vmcoreinfo", "htm", "nested-hv", "ccf-assist", "ras", "ps2",
)  # fmt: skip
_HYPERV: Final = (
    "relaxed", "vapic", "vpindex", "runtime", "synic", "stimer", "reset", "frequencies", "reenlightenment",
    "tlbflush", "ipi", "evmcs", "avic", "emsr_bitmap", "xmm_input",
)  # fmt: skip
_KVM: Final = ("hidden", "hint-dedicated", "poll-control", "pv-ipi", "dirty-ring")


def _switch(name: str) -> Visible:
    """Return the rule of a feature that is on where it is there and says nothing else."""
    path = f"features/{name}"

    def read(domain: Element) -> Hashable:
        found = find_at(domain, path)
        return None if found is None else found.get("state", "on")

    return Visible(paths=(path, f"{path}/@state"), read=read, reason=_REASON)


def _of(path: str, *attributes: str, convert: Convert = plain, fallback: str | None = None) -> Visible:
    """Return the rule of a feature that is made of attributes."""
    names = attributes or ("state",)

    def read(domain: Element) -> Hashable:
        found = find_at(domain, path)
        return None if found is None else tuple(convert(found.get(name, fallback)) for name in names)

    return Visible(paths=(path, *(f"{path}/@{name}" for name in names)), read=read, reason=_REASON)


def _detail(path: str, read: Callable[[Element], Hashable], *attributes: str) -> Visible:
    """Return the rule of a feature of which libvirt compares only what `read` returns."""
    paths = (path, *(f"{path}/@{name}" for name in attributes))
    return Visible(paths=paths, read=read, reason=_REASON)


def _where(is_on: Callable[[Element], bool], rule: Visible) -> Visible:
    """Return the rule for a detail of a feature: it counts only where the feature is on."""

    def read(domain: Element) -> Hashable:
        return rule.read(domain) if is_on(domain) else None

    return Visible(
        paths=rule.paths, read=read, reason=rule.reason, rest="it belongs to a feature that is off"
    )


def _is_smm_on(domain: Element) -> bool:
    found = find_at(domain, "features/smm")
    return found is not None and found.get("state", "on") == "on"


def _is_stimer_on(domain: Element) -> bool:
    return text_at(domain, "features/hyperv/stimer/@state") == "on"


def _spinlocks(domain: Element) -> Hashable:
    """Return how often the guest tries; libvirt compares only that."""
    found = find_at(domain, "features/hyperv/spinlocks")
    return 0 if found is None or found.get("state") != "on" else count(found.get("retries"))


def _vendor(domain: Element) -> Hashable:
    found = find_at(domain, "features/hyperv/vendor_id")
    return None if found is None or found.get("state") != "on" else found.get("value")


VISIBLE: Final[tuple[Visible, ...]] = (
    *(_of(f"features/{name}", "_") for name in _PLAIN),
    *(_switch(name) for name in _SWITCHES),
    _of("features/apic", "eoi"),
    _of("features/ioapic", "driver"),
    _of("features/gic", "version"),
    _of("features/capabilities", "policy"),
    _of("features/hpt", "resizing"),
    Visible(
        paths=("features/hpt/maxpagesize", "features/hpt/maxpagesize/@unit"),
        read=size("features/hpt/maxpagesize", "B"), reason=_REASON,
    ),
    *(_of(f"features/{name}", "value") for name in ("cfpc", "sbbc", "ibs", "aia")),
    _of("features/hyperv", "mode", fallback="custom"),
    *(_of(f"features/hyperv/{name}") for name in _HYPERV),
    _where(_is_stimer_on, _of("features/hyperv/stimer/direct")),
    _detail("features/hyperv/spinlocks", _spinlocks, "state", "retries"),
    _detail("features/hyperv/vendor_id", _vendor, "state", "value"),
    _of("features/kvm", "_"),
    *(_of(f"features/kvm/{name}") for name in _KVM),
    _of("features/kvm/dirty-ring", "size", convert=number),
    _of("features/xen", "_"),
    _of("features/xen/e820_host"),
    _of("features/xen/passthrough", "state", "mode"),
    _where(
        _is_smm_on,
        Visible(
            paths=("features/smm/tseg", "features/smm/tseg/@unit"), read=size("features/smm/tseg", "MiB"),
            reason="the guest's firmware sees how much memory it has to itself",
        ),
    ),
)  # fmt: skip
FREE: Final = free(
    UNCHECKED, "features/msrs", "features/tcg", "features/async-teardown", "features/capabilities"
)
