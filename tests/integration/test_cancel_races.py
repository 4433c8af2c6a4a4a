"""Cancel against claim in every order of their steps: the real journal, catalog, flags and event stream."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from threading import Event
from typing import Self
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.sandbox import RedisServer
from tasks.broker import open_redis
from tasks.cancel import close_unclaimed, hear_hosts, mark_cancels, raise_flags
from tasks.catalog import Catalog, JobView, models, open_catalog, queries
from tasks.envelope import Envelope, new_nonce, parse_envelope
from tasks.events import apply_events
from tasks.host_flags import HostFlags
from tasks.journal import Journal
from tasks.sender import EventSender
from tasks.states import FINAL, JobState

pytestmark = pytest.mark.integration


#: Nothing here is about the disk, and every step would wait for it.
_MEMORY = "/dev/shm"


class World:
    """One job, its host and who cancels it; each method is a step that may come before or after any other."""

    def __init__(self, broker_url: str, catalog: Catalog) -> None:
        self._closing = ExitStack()
        folder = self._closing.enter_context(tempfile.TemporaryDirectory(dir=_MEMORY))
        self.host, self.job = f"h{uuid4().hex[:12]}", uuid4().hex
        self.redis = self._closing.enter_context(open_redis(broker_url, client_name="races"))
        self.catalog = catalog
        self.journal = self._closing.enter_context(Journal(Path(folder, "journal"), host=self.host))
        self.sender = EventSender(self.journal, self.redis, host=self.host)
        self.flags = HostFlags(self.redis, self.journal, host=self.host, has_room=Event())
        #: The worker that runs now has looked and found no flag.
        self.is_cleared = False
        self.started: list[int] = []
        #: The control side cancelled it alone; how far it is with that otherwise.
        self.is_closed = False
        self.cancel_steps = 0
        self.final: JobState | None = None
        self.doorbells: list[Envelope] = []
        retry = {"retry": {"attempts": 3, "backoff": 0.001}}
        with self.catalog.write() as session:
            session.add(
                models.Job(
                    id=self.job, host=self.host, op="save", domain="d", target="d", params=retry,
                    state=str(JobState.QUEUED), created_at=datetime.now(UTC),
                )
            )  # fmt: skip
        self.ring()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def view(self) -> JobView:
        """Return the job as the catalog has it."""
        [found] = queries.find_jobs(self.catalog, [self.job])
        return found

    def ring(self) -> None:
        """Ring (again), if the catalog holds the job as queued."""
        view, now = self.view(), datetime.now(UTC)
        if view.state is JobState.QUEUED:
            self.doorbells.append(
                Envelope(
                    job_id=self.job, attempt=view.attempt, op="save", host=self.host, domain="d", params={},
                    issued_at=now, expires_at=now + timedelta(hours=24), nonce=new_nonce(),
                )
            )  # fmt: skip

    def hear(self) -> None:
        """Hear every doorbell that was ever rung, once more."""
        for envelope in self.doorbells:
            self.journal.hear(envelope)

    def host_step(self, engine: str = "finish") -> None:
        """Let the worker do the next thing about the job, as `tasks.dispatcher` does them."""
        entry, text = self.journal.find(self.job), self.journal.take_waiting(self.job)
        if text is not None and (entry is None or entry.state in FINAL):
            self.journal.claim(parse_envelope(text.encode(), host=self.host, now=datetime.now(UTC)))
        elif entry is None:
            return
        elif entry.state is JobState.QUEUED:
            self.claimed_step(entry.attempt)
        elif entry.state is JobState.COMMITTING:
            self.journal.record_state(self.job, JobState.SUCCEEDED, reason=None, result={})
        elif entry.state is JobState.RUNNING and self.flags.ask_cancelled(self.job):
            self.journal.record_state(self.job, JobState.CANCELLED, reason="stopped")
        elif entry.state is JobState.RUNNING and engine == "finish":
            self.journal.record_state(self.job, JobState.COMMITTING, reason=None)
        elif entry.state is JobState.RUNNING:
            self.journal.record_state(self.job, JobState.FAILED, reason="busy", repeatable=True)

    def claimed_step(self, attempt: int) -> None:
        """Have the claim known, look at the flag, start the engine: one of these."""
        if self.is_cleared:
            self.is_cleared = False
            self.journal.record_start(self.job, pid=1, start_ticks=1)
            self.started.append(attempt)
        elif self.journal.has_unsent(self.job):
            self.sender._send_all()
        elif self.flags.ask_cancelled(self.job):
            self.journal.record_state(self.job, JobState.CANCELLED, reason="flag")
        else:
            self.is_cleared = True

    def fail_step(self) -> None:
        """The same with an engine that fails for a passing reason."""
        self.host_step("fail")

    def send(self) -> None:
        """Let the outbox reach Redis."""
        self.sender._send_all()

    def restart(self) -> None:
        """Kill the worker: what it had found out is forgotten, what it had written is not."""
        self.is_cleared = False

    def apply(self) -> None:
        """Bring the catalog up to date."""
        apply_events(self.catalog, self.redis, [self.host])

    def cancel_step(self) -> None:
        """Let who cancels do the next thing, as `tasks.cancel.cancel_jobs` does them."""
        self.cancel_steps += 1
        if self.cancel_steps == 1:
            mark_cancels(self.catalog, [self.job], now=datetime.now(UTC))
        elif self.view().cancel_requested_at is None:
            return
        elif self.cancel_steps == 2:
            raise_flags(self.redis, [self.view()])
        elif self.cancel_steps == 3:
            hear_hosts(self.catalog, self.redis, [self.host])
        elif self.cancel_steps == 4:
            was_final = self.view().is_final
            close_unclaimed(self.catalog, [self.job], now=datetime.now(UTC))
            self.is_closed = not was_final and self.view().is_final

    def check(self) -> None:
        """Compare with what must always be so."""
        view = self.view()
        assert self.final is None or view.state is self.final, "a final state has changed"
        self.final = view.state if view.is_final else None
        assert self.started == sorted(set(self.started)), "an attempt started twice, or after a later one"
        assert not (self.is_closed and view.attempt in self.started), "what nobody had claimed has run"

    def finish(self) -> None:
        """Let all be said, heard and done: how the host ended the job is what the catalog says."""
        for _ in range(20):
            self.host_step()
            self.send()
            hear_hosts(self.catalog, self.redis, [self.host])
            self.check()
        view, entry = self.view(), self.journal.find(self.job)
        if self.is_closed:
            assert entry is None or entry.state in {JobState.CANCELLED, JobState.FAILED}
        elif entry is not None and entry.attempt == view.attempt:
            assert entry.state is view.state


@pytest.fixture
def catalog(redis_server: RedisServer) -> Iterator[Catalog]:
    """Give a catalog that all stories of a test share, and a broker that runs."""
    redis_server.start()
    with (
        tempfile.TemporaryDirectory(dir=_MEMORY) as folder,
        open_catalog(f"sqlite:///{folder}/catalog.sqlite") as opened,
    ):
        yield opened


def run(broker_url: str, catalog: Catalog, story: list[str]) -> World:
    """Run the steps in their order, then all that is left to do."""
    with World(broker_url, catalog) as world:
        for step in story:
            getattr(world, step)()
            world.check()
        world.finish()
        return world


def interleavings() -> Iterator[list[str]]:
    """Yield every order of a host's steps up to its success with the four of a cancel."""
    host = ["hear", *["host_step"] * 6]
    for places in combinations(range(len(host) + 4), 4):
        steps = iter(host)
        yield ["cancel_step" if place in places else next(steps) for place in range(len(host) + 4)]


def test_every_order_of_one_cancel_and_one_claim(redis_server: RedisServer, catalog: Catalog) -> None:
    """All of them; each of the three ends happens: never claimed, stopped, too late."""
    ends = set()
    for story in interleavings():
        world = run(redis_server.url, catalog, story)
        ends.add((world.final, world.is_closed))
    assert ends == {
        (JobState.CANCELLED, True), (JobState.CANCELLED, False), (JobState.SUCCEEDED, False),
    }  # fmt: skip


STEPS = [
    "ring",
    "hear",
    *["host_step"] * 4,
    *["fail_step"] * 2,
    "send",
    "restart",
    "apply",
    *["cancel_step"] * 2,
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=st.lists(st.sampled_from(STEPS), min_size=10, max_size=40))
def test_any_story_of_attempts_restarts_and_doorbells(
    redis_server: RedisServer, catalog: Catalog, story: list[str]
) -> None:
    """Doorbells heard again, attempts that fail, a worker that is killed: the same holds."""
    run(redis_server.url, catalog, story)
