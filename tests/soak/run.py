"""Kill engines at random instants, and say what it cost: `make soak N=200`.

`run.py [--kills N] [--seed N] [--write]`: --write puts the result into docs/fault-matrix.md.
The exit status is 1 unless nothing was lost.
"""

import argparse
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cli.sandbox import Sandbox  # noqa: E402 - found through the line above
from tests.e2e.faults.report import replace_blocks  # noqa: E402
from tests.soak.soak import open_victims, soak  # noqa: E402

_HOSTS = ("alpha", "beta")
_GUESTS = 2


def main() -> int:
    """Run the soak that the command line asks for."""
    parser = argparse.ArgumentParser(description="kill engines at random instants on real guests")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))  # noqa: S311 - no secret
    parser.add_argument("--write", action="store_true", help="put the result into docs/fault-matrix.md")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)  # noqa: T201 - this is a command
    began = time.monotonic()
    with Sandbox(_HOSTS) as sandbox, open_victims(list(sandbox.hosts.values()), _GUESTS) as victims:
        tally = soak(victims, chosen.kills, chosen.seed, lambda line: print(line, flush=True))  # noqa: T201
    minutes = (time.monotonic() - began) / 60
    summary = (
        f"{tally} (seed {chosen.seed}, {len(_HOSTS)} hosts, {_GUESTS} guests each, {minutes:.0f} minutes)"
    )
    print(summary)  # noqa: T201
    if chosen.write:
        replace_blocks([("soak", f"`make soak N={chosen.kills}`: {summary}.")])
    return 0 if tally.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
