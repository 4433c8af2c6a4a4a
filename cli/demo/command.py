"""fleetsave demo: the whole way, on a fleet of this machine, proven step by step."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from cli.command import Command
from cli.output import format_seconds, print_json
from engine.errors import EngineError

if TYPE_CHECKING:
    from cli.demo.acts import Demo
    from cli.demo.story import Story


@click.command(cls=Command, examples=("fleetsave demo", "fleetsave demo --json"))
def demo(*, as_json: bool) -> int:
    """Save and restore four guests on two hosts of this machine, and check every claim.

    The hosts are unprivileged users with libvirt daemons of their own; Redis, workers and guests
    are real. Needs root, to make those users, and what `make setup` installs. Everything is taken
    down at the end. The exit code is 0 if every check passed, else 1.
    """
    from cli.demo.story import Story
    from cli.sandbox import SandboxError

    began, story = time.monotonic(), Story(is_silent=as_json)
    try:
        with _signals_interrupt(), ExitStack() as stack:
            played = _play(stack, story)
    except SandboxError as error:
        raise EngineError("demo", str(error)) from error
    seconds = time.monotonic() - began
    if as_json:
        print_json(_document(played, seconds))
    else:
        _report(played, story, seconds)
    return 0 if played.checks.passed else 1


def _play(stack: ExitStack, story: Story) -> Demo:
    """Set the fleet up on the stack and play all acts."""
    from cli.demo.acts import Demo
    from cli.demo.fleet import open_fleet
    from cli.sandbox import Sandbox

    story.say(
        "fleetsave writes the memory of running guests to disk past the page cache, and brings it back."
    )
    story.say("Here it does so for a small fleet that exists as long as this demo; nothing else is touched.")
    story.chapter("A fleet on this machine: two hosts, Redis, a worker on each host")
    sandbox = stack.enter_context(Sandbox(("alpha", "beta")))
    # From here on a second Ctrl-C must not leave half of it behind.
    stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
    broker = stack.enter_context(sandbox.redis())
    fleet = stack.enter_context(open_fleet(sandbox, broker))
    for host in sandbox.hosts.values():
        port = fleet.workers[host.name].metrics_port
        story.say(
            f"{host.name}: user {host.user} with its own libvirt daemon; the worker's metrics: port {port}"
        )
    story.say(f"control side: root, with a catalog of its own, and {broker.url}")
    story.say("its key signs every job; a host trusts that key alone, and Redis lets it read its own queue")
    played = Demo(fleet, story)
    before = fleet.scrape()
    played.start_guests()
    played.save_all()
    played.restore_all()
    played.prove_memory()
    played.show_metrics(before)
    story.say("")
    story.say("Taking everything down: guests, daemons, workers, Redis, users, files.")
    return played


def _report(played: Demo, story: Story, seconds: float) -> None:
    """Print the list of checks and the verdict."""
    story.chapter("Checks")
    rows = [("passed" if one.passed else "FAILED", one.claim, one.seen) for one in played.checks.checks]
    story.table(("", "claim", "seen"), rows)
    failed = sum(not one.passed for one in played.checks.checks)
    verdict = f"{failed} of {len(rows)} checks FAILED" if failed else f"All {len(rows)} checks passed"
    story.say("")
    story.say(f"{verdict} in {format_seconds(seconds)}.", style="bold red" if failed else "bold green")


def _document(played: Demo, seconds: float) -> dict[str, Any]:
    """Return the JSON document."""
    return {
        "passed": played.checks.passed,
        "seconds": round(seconds, 1),
        "checks": [
            {"claim": one.claim, "passed": one.passed, "seen": one.seen} for one in played.checks.checks
        ],
        "guests": [one.to_dict() for one in played.watched.values()],
        "metrics": played.changes,
    }


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that everything is taken down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
