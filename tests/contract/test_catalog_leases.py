"""One leads: whoever took the lease, until it runs out or is let go."""

import threading
from collections.abc import Callable
from datetime import timedelta

from tasks.catalog import Catalog
from tasks.catalog.leases import LeaseView, find_lease, holds_lease, release_lease, take_lease
from tests.contract.catalog_scene import at

DURATION = timedelta(seconds=10)


def take(catalog: Catalog, owner: str, seconds: float) -> LeaseView | None:
    """Try to take the lease."""
    return take_lease(catalog, "scheduler", owner, now=at(seconds), duration=DURATION)


def epoch(lease: LeaseView | None) -> int:
    """Return the number of a lease that was got."""
    assert lease is not None
    return lease.epoch


def test_lease_is_kept_by_taking_it_again(catalog: Catalog) -> None:
    """The number stays as long as it never ran out."""
    assert epoch(take(catalog, "a", 0)) == 1
    assert epoch(take(catalog, "a", 9)) == 1
    assert take(catalog, "b", 18) is None
    assert epoch(take(catalog, "b", 19)) == 2
    assert take(catalog, "a", 20) is None
    found = find_lease(catalog, "scheduler")
    assert found is not None
    assert (found.owner, found.expires_at) == ("b", at(29))


def test_owner_that_was_away_too_long_finds_another_number(catalog: Catalog) -> None:
    """What it began before is not to go on."""
    old = take(catalog, "a", 0)
    new = take(catalog, "a", 11)
    assert (epoch(old), epoch(new)) == (1, 2)
    assert old is not None
    assert new is not None
    with catalog.write() as session:
        assert not holds_lease(session, old)
        assert holds_lease(session, new)


def test_lease_let_go_can_be_taken_at_once(catalog: Catalog) -> None:
    """But not by letting go what is another's already."""
    first = take(catalog, "a", 0)
    assert first is not None
    release_lease(catalog, first, now=at(1))
    assert epoch(take(catalog, "b", 1)) == 2
    release_lease(catalog, first, now=at(2))
    assert take(catalog, "c", 2) is None


def test_one_of_many_gets_it(new_url: Callable[[], str]) -> None:
    """Each with connections of its own."""
    from tasks.catalog import open_catalog

    url, won, start = new_url(), [], threading.Barrier(8)

    def run(owner: str) -> None:
        with open_catalog(url) as catalog:
            start.wait()
            won.append(take(catalog, owner, 0))

    threads = [threading.Thread(target=run, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in won) == 1
