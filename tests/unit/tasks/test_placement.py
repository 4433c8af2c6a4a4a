from datetime import UTC, datetime, timedelta

import pytest

from tasks.placement import HostSight, find_new_host, may_move

SUBMITTED = datetime(2026, 1, 1, tzinfo=UTC)
FRESH = HostSight(seen_at=SUBMITTED + timedelta(seconds=1), libvirt_up=True)
HOSTS = {
    "alpha": FRESH,
    "beta": FRESH,
    "old": HostSight(seen_at=SUBMITTED, libvirt_up=True),
    "blind": HostSight(seen_at=SUBMITTED + timedelta(seconds=1), libvirt_up=False),
    "new": HostSight(seen_at=None, libvirt_up=None),
}


@pytest.mark.parametrize(
    ("here", "holders", "found"),
    [
        ("alpha", ["beta"], "beta"),
        ("alpha", ["alpha", "beta"], None),
        ("alpha", ["alpha"], None),
        ("alpha", [], None),
        ("alpha", ["beta", "gamma"], None),
        ("alpha", ["old"], None),
        ("alpha", ["blind"], None),
        ("alpha", ["nobody"], None),
        ("old", ["beta"], None),
        ("blind", ["beta"], None),
        ("new", ["beta"], None),
        ("nobody", ["beta"], None),
    ],
)
def test_domain_has_moved_only_if_both_hosts_say_so(here: str, holders: list[str], found: str | None) -> None:
    """Gone from the one, on exactly one other, both seen since the job was submitted."""
    assert find_new_host(here, holders=holders, hosts=HOSTS, since=SUBMITTED) == found


def test_only_what_follows_the_guest_moves() -> None:
    """Not what needs an image that lies on the host, nor what writes to a path there."""
    assert may_move("save", {"bypass_cache": "prefer"})
    assert not may_move("save", {"to": "/srv/x"})
    assert not may_move("start", {})
    assert not may_move("restore", {"path": "/srv/x"})
