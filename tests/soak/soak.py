"""Kill engines at random instants on real guests, recover, and count what was lost."""

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from cli.sandbox import Guest, GuestSpec, Host, SandboxError
from engine import EngineError, image_verify
from engine.steps import RESTORE_STEPS, SAVE_STEPS
from tests.e2e.faults.outcome import BACK_SECONDS
from tests.e2e.faults.scene import MID_STREAM, Scene, recover

OPERATIONS: Final = ("save", "checkpoint", "restore")
#: Share of the kills that strike at a named step; the others strike at any time.
_SHARE_AT_STEPS: Final = 0.5
#: A kill by the clock strikes at most so much later than the operation usually takes.
_LATEST: Final = 1.1
_POLL_SECONDS: Final = 0.02
_SETTLED: Final = frozenset({"running", "shut off"})


@dataclass(kw_only=True)
class Tally:
    """What the kills have cost; all but the first must be 0."""

    kills: int = 0
    #: A guest neither runs nor is its image there.
    guests_lost: int = 0
    #: A guest is paused after recovery, or does not count on.
    left_paused: int = 0
    #: Something under a final name that is not whole, or does not restore.
    bad_images_published: int = 0
    #: Kills after which staging or the runtime directory was not empty.
    staging_left: int = 0

    @property
    def is_clean(self) -> bool:
        """True when the kills have cost nothing."""
        return not any(value for name, value in asdict(self).items() if name != "kills")

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(self).items())


@dataclass(kw_only=True)
class Victim:
    """One guest whose engines are killed; all guests of one host are one after another in one thread."""

    scene: Scene
    #: How long each operation takes when nobody kills it, seconds.
    usual_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def guest(self) -> Guest:
        """The guest."""
        return self.scene.guest

    def prepare(self) -> None:
        """Take the first good image, measure how long each operation takes."""
        scene = self.scene
        self._measure("checkpoint", to=str(scene.good))
        self._measure("save")
        self._measure("restore", path=str(scene.image))
        self.guest.wait_counting()

    def _measure(self, op: str, **request: str) -> None:
        began = time.monotonic()
        self.scene.run(op, **request)
        self.usual_seconds[op] = time.monotonic() - began

    def strike(self, choice: random.Random) -> str:
        """Start an operation and kill its engine; return what was done, or "" if it had ended before."""
        scene = self.scene
        op = choice.choice(OPERATIONS)
        scene.set_up(op, "")
        steps = [*(RESTORE_STEPS if op == "restore" else SAVE_STEPS), MID_STREAM]
        if choice.random() < _SHARE_AT_STEPS:
            scene.step = choice.choice(steps)
            engine = scene.start_held()
            when = f"at {scene.step}"
        else:
            delay = choice.uniform(0, _LATEST * self.usual_seconds[op])
            engine = scene.start()
            when = f"after {delay:.3f} s"
            # Not a wait for something: the instant itself is what is random.
            time.sleep(delay)
        scene.strike()
        is_alive = engine.process.poll() is None
        engine.kill()
        return f"{op} {when}" if is_alive else ""

    def judge(self, tally: Tally, lock: threading.Lock) -> str:
        """Recover, look at everything, put the guest back for the next kill; return what was found."""
        scene = self.scene
        self._wait(lambda: self.guest.state() in _SETTLED)
        kinds = [one["kind"] for one in recover(scene.host, scene.folder)]
        state, left = self.guest.state(), scene.leftovers()
        is_whole = self._is_image_whole()
        is_lost = state != "running" and (
            scene.op == "checkpoint" or (scene.op == "save" and is_whole is not True)
        )
        is_stuck = state not in _SETTLED or (state == "running" and not self._counts())
        is_bad = is_whole is False
        if state == "shut off":
            is_bad |= not self._restores(scene.image if is_whole else scene.good)
        with lock:
            tally.guests_lost += is_lost
            tally.left_paused += is_stuck
            tally.bad_images_published += is_bad
            tally.staging_left += bool(left)
        found = "image" if is_whole else "no image" if is_whole is None else "BAD IMAGE"
        said = [state, found, *kinds, *(f"left {path}" for path in left)]
        return ", ".join([*said, *["LOST"] * is_lost, *["STUCK"] * is_stuck, *["DOES NOT RESTORE"] * is_bad])

    def _counts(self) -> bool:
        try:
            if self.scene.op == "restore":
                self.guest.wait_counting(BACK_SECONDS)
            else:
                self.guest.wait_counter_beyond(self.scene.counter + 1, BACK_SECONDS)
        except SandboxError:
            return False
        return True

    def _is_image_whole(self) -> bool | None:
        """Tell whether the new image is whole; None where there is none."""
        scene = self.scene
        if not scene.visible():
            return None
        try:
            return image_verify(scene.image).is_compared
        except EngineError:
            return False

    def _restores(self, image: Path) -> bool:
        counter = self.guest.counter()
        try:
            self.scene.restore(image)
            if image == self.scene.image:
                self.guest.wait_counter_beyond(counter, BACK_SECONDS)
        except (AssertionError, SandboxError):
            return False
        return True

    def has_good_memory(self) -> bool:
        """Tell whether the guest has never found its memory changed, now that it has looked once more."""
        self.scene.set_up("checkpoint", "")
        self.guest.wait_memory_checked()
        return self.guest.memory_ok()

    def _wait(self, is_reached: Callable[[], bool]) -> None:
        """Wait at most as long as a guest may take to be put right."""
        deadline = time.monotonic() + BACK_SECONDS
        while not is_reached() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def soak(hosts: list[list[Victim]], kills: int, seed: int, say: Callable[[str], None]) -> Tally:
    """Kill so many engines, the guests of each host one after another, the hosts beside each other.

    Args:
        hosts: the guests of each host, prepared.
        kills: how many engines are killed, all hosts together.
        seed: of the instants; the same seed chooses the same guests, operations and instants.
        say: takes a line for each kill.
    """
    tally, lock = Tally(), threading.Lock()
    failures: list[BaseException] = []

    def work(number: int, victims: list[Victim]) -> None:
        mine = kills // len(hosts) + (number < kills % len(hosts))
        choice = random.Random(f"{seed}/{number}")  # noqa: S311 - nobody is to be kept from guessing it
        done = 0
        try:
            while done < mine:
                victim = choice.choice(victims)
                what = victim.strike(choice)
                found = victim.judge(tally, lock)
                if what:
                    done += 1
                    with lock:
                        tally.kills += 1
                        say(f"{tally.kills:4} {victim.guest.name} {what}: {found}")
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(hosts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    tally.bad_images_published += sum(not victim.has_good_memory() for victims in hosts for victim in victims)
    return tally


@contextmanager
def open_victims(hosts: list[Host], guests: int) -> Iterator[list[list[Victim]]]:
    """Give each host so many guests, running, each with a good image, as long as the block."""
    made = [[_make_victim(host, number) for number in range(guests)] for host in hosts]
    try:
        yield made
    finally:
        for victims in made:
            for victim in victims:
                _clean(victim)


def _make_victim(host: Host, number: int) -> Victim:
    base = host.store.parent / f"soak-{uuid4().hex[:8]}"
    folder, good = base / "new", base / "good"
    for path in (base, folder, good):
        path.mkdir(mode=0o700)
        os.chown(path, host.uid, host.uid)
    guest = host.define(GuestSpec(name=f"{host.name}-{number}-{uuid4().hex[:4]}", fill_mib=8))
    guest.start()
    guest.wait_counting()
    victim = Victim(scene=Scene(guest=guest, folder=folder, good=good / "good.save"))
    victim.prepare()
    return victim


def _clean(victim: Victim) -> None:
    victim.scene.end_engines()
    with suppress(SandboxError):
        victim.guest.remove()
    shutil.rmtree(victim.scene.folder.parent)
