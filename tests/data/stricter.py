"""Where we refuse what libvirt 11.3 allows: each with its reason. The other way round there is nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tests.data.domain_mutations import Mutation


@dataclass(frozen=True, slots=True, kw_only=True)
class Stricter:
    """Mutations that libvirt does not mind, although they look as if a guest would."""

    kinds: frozenset[str]
    #: Expression for whole paths.
    paths: str
    reason: str

    def covers(self, mutation: Mutation) -> bool:
        """Tell whether the mutation is one of them."""
        return mutation.kind in self.kinds and re.fullmatch(self.paths, mutation.path) is not None


def _stricter(kinds: str, paths: str, reason: str) -> Stricter:
    return Stricter(kinds=frozenset(kinds.split()), paths=paths, reason=reason)


_DEFAULT: Final = "libvirt's parser puts in what stood there"
_EQUIPMENT: Final = "libvirt's parser adds what every such machine has"

STRICTER: Final = (
    _stricter("invent", r".*", "libvirt's parser does not know the attribute and passes over it"),
    _stricter("repeat", r".*", "libvirt's parser reads only one of several"),
    _stricter(
        "add remove set unset", r"devices/[a-z]+/address(/@(type|bus|slot|port))?",
        "libvirt's parser chooses an address where there is none or a zero: the same, as it happens",
    ),
    _stricter(
        "remove",
        r"devices/(console|controller|memballoon|serial|video)|devices/(console|parallel|serial)/target",
        _EQUIPMENT,
    ),
    _stricter("remove unset", r"features/ioapic(/@driver)?", _EQUIPMENT),
    _stricter("add remove", r"cpu(/model)?", _DEFAULT),
    _stricter("remove", r"cpu/numa/cell/distances(/sibling)?", _DEFAULT),
    _stricter("unset", r"cpu/numa/cell/@(cpus|id)|os/type/@(arch|machine)", _DEFAULT),
    _stricter("unset", r"devices/(controller|tpm|vsock|panic|shmem)/@(model|index|type)", _DEFAULT),
    _stricter("unset", r"devices/(disk/target|input)/@bus", _DEFAULT),
    _stricter("remove", r"devices/(interface|video|serial/target)/model", _DEFAULT),
    _stricter("remove", r"devices/shmem/size|memory|uuid", _DEFAULT),
    _stricter("unset", r"devices/(interface|video)/model/@(type|vram)", _DEFAULT),
    _stricter("unset", r"devices/shmem/msi/@ioeventfd", _DEFAULT),
    _stricter("unset", r"devices/(console|parallel|serial)/target/(model/)?@(name|port|type)", _DEFAULT),
    _stricter("remove", r"devices/disk/driver", _DEFAULT),
    _stricter("set", r"devices/interface/model/@type", "libvirt takes capital letters for small ones"),
    _stricter("add give", r"devices/video/(driver|model/(acceleration|@vram))", "libvirt drops it: no card"),
    _stricter("give", r"devices/sound/@multichannel", "libvirt's parser drops it: not a USB card"),
    _stricter("add", r"sysinfo/(baseBoard|bios|chassis|system)", "libvirt drops it from fwcfg tables"),
    _stricter("add remove", r"devices/crypto", "libvirt adds controllers for them, but counts no crypto"),
    _stricter("set", r"devices/crypto/address/@function", "libvirt compares nothing of them"),
)  # fmt: skip
