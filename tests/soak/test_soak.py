import random
from typing import Final

import pytest

from cli.sandbox import Sandbox
from tests.soak.soak import Tally, open_victims, soak

_KILLS: Final = 6


@pytest.mark.e2e
def test_killed_engines_cost_nothing(sandbox: Sandbox) -> None:
    """A few kills at random instants: `make soak N=200` does more of them."""
    seed = random.randrange(1000)  # noqa: S311 - no secret
    lines: list[str] = [f"seed {seed}"]
    with open_victims(list(sandbox.hosts.values()), 1) as victims:
        tally = soak(victims, _KILLS, seed, lines.append)

    assert tally == Tally(kills=_KILLS), "\n".join(lines)


def test_anything_lost_is_not_clean() -> None:
    """The exit status of the soak hangs on this."""
    assert Tally(kills=200).is_clean
    assert not Tally(kills=200, left_paused=1).is_clean
