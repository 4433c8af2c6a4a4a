"""Tell where a job's domain is now, from what the hosts last reported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

#: Operations that go where the guest is; the others need something that lies on their host.
_FOLLOWING: Final = frozenset({"save", "checkpoint", "managed-save", "dump"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSight:
    """What one host last said, as far as it matters here."""

    #: When; None: it has never said anything.
    seen_at: datetime | None
    #: Whether its worker could ask libvirt then; its list of domains is as old as the last time it could.
    libvirt_up: bool | None

    def is_sure_since(self, moment: datetime) -> bool:
        """Tell whether its list of domains was right at some time after the moment."""
        return self.libvirt_up is True and self.seen_at is not None and self.seen_at > moment


def may_move(op: str, params: Mapping[str, Any]) -> bool:
    """Tell whether another host may do the job as well: a path of its own names a file on one host."""
    return op in _FOLLOWING and not params.get("to")


def find_new_host(
    here: str, *, holders: Collection[str], hosts: Mapping[str, HostSight], since: datetime
) -> str | None:
    """Return the host that a job's domain has moved to; None: it has not, or nobody can tell.

    It has if its own host does not list it any more and exactly one other host does, both since the job was
    submitted.

    Args:
        here: the job's host.
        holders: hosts that list the domain.
        hosts: what is known of each host.
        since: when the job was submitted.
    """
    if here in holders or len(holders) != 1:
        return None
    [there] = holders
    both = (hosts.get(here), hosts.get(there))
    return there if all(sight is not None and sight.is_sure_since(since) for sight in both) else None
