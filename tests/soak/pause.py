"""Measure for how long a checkpoint stops a guest with 1 GiB of memory in use: `make pause`.

`pause.py [--times N] [--write]`: --write puts the medians into docs/fault-matrix.md. Nothing is
asserted about times, which are the machine's; the exit status is 1 where the image is not what it
has to be.
"""

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cli.sandbox import Guest, GuestSpec, Host, Sandbox  # noqa: E402 - found through the line above
from tests.e2e.faults.report import replace_blocks  # noqa: E402
from tests.e2e.faults.scene import Scene  # noqa: E402

#: MiB that hold random bytes, and what the kernel of the guest needs beside them.
_FILL_MIB: Final = 1024
_MEMORY_MIB: Final = 1280
#: Seconds of counting that are looked at before and after a checkpoint.
_AROUND_SECONDS: Final = 6.0
_POLL_SECONDS: Final = 0.002
_EVENT: Final = re.compile(r"^(\S+ \S+?): event 'lifecycle' .*: (Suspended|Resumed) ")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one checkpoint was seen to do."""

    #: Between libvirt's SUSPENDED and RESUMED events, as virsh saw them, seconds.
    pause: float
    #: The same, as the engine reports it.
    reported_pause: float
    #: Longest time between two numbers of the guest before and during the checkpoint, seconds.
    usual_gap: float
    gap: float
    duration: float
    bytes: int
    resident_bytes: int
    #: How many numbers the restored copy was behind the last one that the guest printed before the pause.
    behind: int


@dataclass(kw_only=True)
class Watch:
    """When the guest printed, and when libvirt said that it paused and resumed."""

    #: time.time() of each number.
    printed: list[float] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    def gap(self, since: float, until: float) -> float:
        """Return the longest time between two numbers in a stretch of time, seconds."""
        times = [at for at in self.printed if since <= at <= until]
        return max(after - before for before, after in itertools.pairwise(times))

    def pause(self) -> float:
        """Return the seconds from the last SUSPENDED to the RESUMED behind it."""
        suspended = max(at for at, what in self.events if what == "Suspended")
        return min(at for at, what in self.events if what == "Resumed" and at >= suspended) - suspended


@contextmanager
def watch_guest(guest: Guest) -> Iterator[Watch]:
    """Watch a guest as long as the block."""
    watch, ended = Watch(), threading.Event()
    virsh = guest.host.popen(
        [
            "stdbuf",
            "-oL",
            "virsh",
            "-c",
            guest.host.uri,
            "event",
            guest.name,
            "lifecycle",
            "--loop",
            "--timestamp",
        ],
        stdout=subprocess.PIPE,
    )

    def read_events() -> None:
        assert virsh.stdout is not None
        for line in virsh.stdout:
            if found := _EVENT.match(line):
                watch.events.append((datetime.fromisoformat(found[1]).timestamp(), found[2]))

    def read_serial() -> None:
        size = guest.serial.stat().st_size
        while not ended.wait(_POLL_SECONDS):
            with guest.serial.open("rb") as file:
                file.seek(size)
                new = file.read()
            size += len(new)
            watch.printed += [time.time()] * new.count(b"counter ")

    threads = [threading.Thread(target=work, daemon=True) for work in (read_events, read_serial)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        ended.set()
        virsh.terminate()
        virsh.wait()
        for thread in threads:
            thread.join()


def measure(scene: Scene) -> Figures:
    """Take one checkpoint of the running guest and restore it over the guest."""
    guest, image = scene.guest, scene.folder / "pause.save"
    with watch_guest(guest) as watch:
        time.sleep(_AROUND_SECONDS)
        began = time.time()
        result = scene.run("checkpoint", to=str(image)).result
        ended = time.time()
        at_checkpoint = guest.counter()
        time.sleep(_AROUND_SECONDS)
    scene.turn_off()
    printed = len(guest.counters())
    scene.restore(image)
    figures = Figures(
        pause=watch.pause(),
        reported_pause=result["guest_paused_seconds"],
        usual_gap=watch.gap(began - _AROUND_SECONDS, began),
        gap=watch.gap(began, ended + 1),
        duration=result["duration_seconds"],
        bytes=result["bytes"],
        resident_bytes=result["bypass_cache"]["resident_bytes"],
        behind=at_checkpoint - guest.counters()[printed],
    )
    for path in scene.folder.iterdir():
        path.unlink()
    return figures


def prepare(host: Host) -> Scene:
    """Start a guest whose memory is in use."""
    folder = host.store.parent / "pause"
    folder.mkdir(mode=0o700)
    os.chown(folder, host.uid, host.uid)
    guest = host.define(GuestSpec(name="pause", memory_mib=_MEMORY_MIB, fill_mib=_FILL_MIB))
    guest.start()
    guest.wait_counting(300)
    return Scene(guest=guest, folder=folder, good=folder / "none")


def summarise(runs: list[Figures]) -> str:
    """Return the medians in a sentence."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(figures, name) for figures in runs))

    return (
        f"`make pause`: checkpoint of a guest with {_FILL_MIB} MiB of random bytes, medians of {len(runs)}: "
        f"paused {median('pause'):.2f} s between libvirt's SUSPENDED and RESUMED events "
        f"(at most {max(figures.pause for figures in runs):.2f} s; "
        f"{median('reported_pause'):.2f} s by the engine's own report); "
        f"longest time between two numbers of the guest {median('gap'):.2f} s, "
        f"{median('usual_gap'):.2f} s without a checkpoint; "
        f"{median('bytes') / 1024**2:.0f} MiB in {median('duration'):.1f} s; "
        f"resident bytes {max(figures.resident_bytes for figures in runs)}; "
        f"each restored copy went on from the checkpoint."
    )


def main() -> int:
    """Measure as the command line asks for."""
    parser = argparse.ArgumentParser(description="measure for how long a checkpoint stops a guest")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the medians into docs/fault-matrix.md")
    chosen = parser.parse_args()
    runs: list[Figures] = []
    with Sandbox(("alpha",)) as sandbox:
        scene = prepare(sandbox.hosts["alpha"])
        for _ in range(chosen.times):
            runs.append(measure(scene))
            print(runs[-1], flush=True)  # noqa: T201 - this is a command
    summary = summarise(runs)
    print(summary)  # noqa: T201
    if chosen.write:
        replace_blocks([("checkpoint pause", summary)])
    # The copy may have missed what was printed while its engine ended, never more.
    is_right = all(figures.resident_bytes == 0 and -2 <= figures.behind <= 10 for figures in runs)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
