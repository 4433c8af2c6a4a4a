"""Jobs on two hosts with real journals and a real catalog, and everything between them that can go wrong.

A state machine submits, rings, loses, repeats, cancels, moves domains, crashes hosts; whatever it does, no
attempt is claimed twice, no end ever changes, and with enough reconciling every job ends.
"""

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.reconcile import JobSight, Limits, QueueSight, plan_pass
from tasks.catalog import JobView, models, open_catalog, queries
from tasks.catalog.apply import apply_event
from tasks.catalog.attempts import close_job, find_new_hosts
from tasks.catalog.reconciling import find_seen, list_unfinished, list_with_gaps, note_asked, note_rung
from tasks.envelope import Envelope
from tasks.host_event import EventKind, HostEvent, parse_event
from tasks.states import FINAL, JobState
from tests.fault.job_hosts import HostSide, has_messages, has_news, has_work

HOSTS = ("alpha", "beta")
DOMAINS = tuple(str(UUID(int=number)) for number in range(1, 3))
LIMITS = Limits()
_PASSES_MAX = 60


def any_host(condition: Callable[[HostSide], object]) -> Callable[[Any], bool]:
    """Return a precondition: a rule that nothing would come of is not drawn."""
    return lambda machine: any(condition(side) for side in machine.hosts.values())


class JobFlow(RuleBasedStateMachine):
    """See above."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.catalog = open_catalog(f"sqlite:///{self.folder}/c.sqlite")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.hosts = {name: HostSide(name, self.folder, lambda: self.now) for name in HOSTS}
        self.places = dict.fromkeys(DOMAINS, "alpha")
        self.count = 0
        #: Job id -> attempt -> hosts that claimed it.
        self.claims: dict[str, dict[int, list[str]]] = {}
        self.ends: dict[str, tuple[JobState, str | None]] = {}
        self.report_inventory()
        for host in HOSTS:
            self.apply_all(host)

    def pick(self, data: st.DataObject, condition: Callable[[HostSide], object]) -> HostSide:
        """Draw a host of which it is true."""
        return self.hosts[data.draw(st.sampled_from([n for n in HOSTS if condition(self.hosts[n])]))]

    def teardown(self) -> None:
        """With hosts that live and messages that arrive, every job ends."""
        try:
            self.come_to_rest()
        finally:
            for host in self.hosts.values():
                host.journal.close()
            self.catalog.close()
            shutil.rmtree(self.folder)

    # What people and programs do.

    @precondition(
        lambda machine: len([job for job in machine.list_jobs() if not job.is_final]) < len(DOMAINS)
    )
    @rule(domain=st.sampled_from(DOMAINS), is_rung=st.booleans())
    def submit(self, domain: str, is_rung: bool) -> None:
        """Make a row where the domain was last seen; whoever does may die before the doorbell."""
        with self.catalog.read() as session:
            rows = {row.uuid: row.host for row in session.query(models.Domain)}
        host = rows.get(domain)
        busy = {job.domain_uuid for job in self.list_jobs() if not job.is_final}
        if host is None or domain in busy:
            return
        self.count += 1
        job_id = f"job-{self.count}"
        with self.catalog.write() as session:
            session.add(
                models.Job(
                    id=job_id, op="save", host=host, domain=domain, domain_uuid=domain, target=domain,
                    params={}, state="queued", created_at=self.now,
                )
            )  # fmt: skip
        if is_rung:
            [job] = queries.find_jobs(self.catalog, [job_id])
            self.ring(job)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Set the flag in the row."""
        if jobs := [job for job in self.list_jobs() if not job.is_final]:
            job = data.draw(st.sampled_from(jobs))
            with self.catalog.write() as session:
                row = session.get(models.Job, job.job_id)
                assert row is not None
                row.cancel_requested_at = self.now

    @rule(domain=st.sampled_from(DOMAINS), host=st.sampled_from(HOSTS))
    def migrate(self, domain: str, host: str) -> None:
        """Let a domain live elsewhere."""
        self.places[domain] = host

    @rule(seconds=st.sampled_from([1, 30, 150, 700]))
    def pass_time(self, seconds: int) -> None:
        """Nobody does anything for a while."""
        self.now += timedelta(seconds=seconds)

    # What goes wrong on the way.

    @precondition(any_host(lambda side: side.queue))
    @rule(data=st.data())
    def drop_message(self, data: st.DataObject) -> None:
        """Redis loses a doorbell or a question."""
        queue = self.pick(data, lambda side: side.queue).queue
        del queue[data.draw(st.integers(0, len(queue) - 1))]

    @precondition(any_host(lambda side: side.queue))
    @rule(data=st.data())
    def repeat_message(self, data: st.DataObject) -> None:
        """Redis delivers one again, later, in another order."""
        queue = self.pick(data, lambda side: side.queue).queue
        queue.append(queue[data.draw(st.integers(0, len(queue) - 1))])

    @precondition(any_host(lambda side: len(side.queue) > 1))
    @rule(data=st.data())
    def delay_message(self, data: st.DataObject) -> None:
        """The first is heard after all others."""
        self.pick(data, lambda side: len(side.queue) > 1).queue.rotate(-1)

    @precondition(any_host(lambda side: side.stream))
    @rule(data=st.data())
    def drop_event(self, data: st.DataObject) -> None:
        """Redis loses an event that the host has sent."""
        stream = self.pick(data, lambda side: side.stream).stream
        del stream[data.draw(st.integers(0, len(stream) - 1))]

    @precondition(any_host(lambda side: side.stream))
    @rule(data=st.data())
    def repeat_event(self, data: st.DataObject) -> None:
        """An event arrives twice, the second time late."""
        stream = self.pick(data, lambda side: side.stream).stream
        stream.append(stream[data.draw(st.integers(0, len(stream) - 1))])

    @precondition(any_host(lambda side: side.is_up))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """Kill the worker and its engines."""
        self.pick(data, lambda side: side.is_up).is_up = False

    # What the parts do.

    @precondition(any_host(lambda side: not side.is_up))
    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        """Start a worker on the journal of the one before."""
        self.pick(data, lambda side: not side.is_up).restart()

    @precondition(any_host(has_messages))
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        """Let a host answer the next message."""
        self.answer(self.pick(data, has_messages))

    def answer(self, side: HostSide) -> None:
        """Do what a worker does with a doorbell or a question."""
        host, message = side.name, side.queue.popleft()
        if isinstance(message, Envelope):
            if message.expires_at > self.now and side.journal.claim(message):
                self.claims.setdefault(message.job_id, {}).setdefault(message.attempt, []).append(host)
        elif not side.journal.tell_again(*message):
            job_id, attempt = message
            side.stream.append(
                HostEvent(
                    host=host, kind=EventKind.UNKNOWN, at=self.now, body={}, job_id=job_id, attempt=attempt
                )
            )

    @precondition(any_host(has_work))
    @rule(data=st.data(), end=st.sampled_from([None, JobState.SUCCEEDED, JobState.FAILED]))
    def work(self, data: st.DataObject, end: JobState | None) -> None:
        """Let the oldest unfinished job of a host take a step, or end."""
        self.get_on(self.pick(data, has_work), end)

    def get_on(self, side: HostSide, end: JobState | None) -> None:
        """Do what engine and supervisor do."""
        entry = side.journal.list_unfinished()[0]
        if entry.state is JobState.QUEUED:
            is_here = self.places[str(entry.domain)] == side.name
            if is_here:
                side.journal.record_start(entry.job_id, pid=1, start_ticks=1)
            else:
                side.journal.record_state(entry.job_id, JobState.FAILED, reason="no such domain")
        elif end is JobState.FAILED:
            side.journal.record_state(entry.job_id, JobState.FAILED, reason="no space")
        elif end is None or entry.state is JobState.RUNNING:
            if entry.state is JobState.RUNNING:
                side.journal.record_state(entry.job_id, JobState.COMMITTING, reason=None)
        else:
            result = {"path": f"/s/{entry.job_id}", "bytes": 1}
            side.journal.record_state(entry.job_id, JobState.SUCCEEDED, reason=None, result=result)

    @precondition(any_host(has_news))
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """Let a host put what it has to say into its stream."""
        self.send_all(self.pick(data, has_news))

    def send_all(self, side: HostSide) -> None:
        """Do what the sender does."""
        entries = side.journal.list_unsent(100)
        side.stream.extend(parse_event(entry.body) for entry in entries)
        side.journal.mark_sent([entry.number for entry in entries])

    @rule()
    def report_inventory(self) -> None:
        """Let every host that is up say which domains it has; it never overtakes what it has journaled."""
        self.now += timedelta(seconds=1)
        for name, side in self.hosts.items():
            if not side.is_up:
                continue
            self.send_all(side)
            domains = [
                {
                    "uuid": uuid, "name": uuid, "state": "running", "memory_bytes": 1, "persistent": True,
                    "has_managed_save": False, "tags": [],
                }
                for uuid, place in self.places.items()
                if place == name
            ]  # fmt: skip
            body = {"facts": {"libvirt_up": True}, "domains": domains}
            side.stream.append(HostEvent(host=name, kind=EventKind.INVENTORY, at=self.now, body=body))

    @precondition(any_host(lambda side: side.stream))
    @rule(data=st.data(), is_all=st.booleans())
    def apply(self, data: st.DataObject, is_all: bool) -> None:
        """Let the catalog hear one event of a host, or all."""
        self.apply_all(self.pick(data, lambda side: side.stream).name, at_most=100 if is_all else 1)

    def apply_all(self, host: str, at_most: int = 100_000) -> None:
        """Do what whoever reads the streams does."""
        stream = self.hosts[host].stream
        for _ in range(min(at_most, len(stream))):
            with self.catalog.write() as session:
                apply_event(session, host, stream.popleft(), now=self.now)

    @rule()
    def reconcile(self) -> None:
        """Let the scheduler do one pass, with the real plan and the real notes."""
        with self.catalog.read() as session:
            rows = list_unfinished(session, after=None, limit=1000)
            rows += list_with_gaps(session, asked_before=self.now - LIMITS.ask_again, limit=1000)
            new_hosts = find_new_hosts(session, [row for row in rows if row.state == "queued"])
            seen = find_seen(session, {row.host for row in rows})
        sights = [
            JobSight(
                job_id=row.id, host=row.host, state=JobState(row.state), created_at=row.created_at,
                rung_at=row.rung_at, heard_at=row.heard_at, asked_at=row.asked_at, has_gaps=row.gaps > 0,
                is_cancelled=row.cancel_requested_at is not None, new_host=new_hosts.get(row.id),
            )
            for row in rows
        ]  # fmt: skip
        hosts = {
            name: QueueSight(seen_at=at, waiting=len(self.hosts[name].queue)) for name, at in seen.items()
        }
        plan = plan_pass(sights, hosts, LIMITS, now=self.now)
        by_id = {row.id: row for row in rows}
        for job_id in (*plan.ask, *plan.ring):
            row = by_id[job_id]
            note = note_asked if job_id in plan.ask else note_rung
            with self.catalog.write() as session:
                is_noted = note(session, row, now=self.now)
            if is_noted and job_id in plan.ask:
                self.hosts[row.host].queue.append((row.id, row.attempt))
            elif is_noted:
                self.ring(JobView.of(row))
        for job_id, reason in plan.lose:
            with self.catalog.write() as session:
                row = session.get(models.Job, job_id)
                assert row is not None
                close_job(session, row, JobState.LOST, reason, now=self.now)

    @rule()
    def look(self) -> None:
        """Let the scheduler know the newest of everything, and act on it."""
        self.report_inventory()
        for name in HOSTS:
            self.apply_all(name)
        self.reconcile()

    # What is always so.

    @invariant()
    def no_attempt_is_claimed_twice(self) -> None:
        """Nor two attempts of a job by hosts that may both act on it."""
        for job_id, attempts in self.claims.items():
            for attempt, hosts in attempts.items():
                assert len(hosts) == 1, (job_id, attempt, hosts)
            assert len(attempts) == 1, (job_id, attempts)

    @invariant()
    def ends_never_change(self) -> None:
        """Once final, always the same."""
        for job in self.list_jobs():
            if job.is_final:
                assert self.ends.setdefault(job.job_id, (job.state, job.reason)) == (job.state, job.reason)

    def come_to_rest(self) -> None:
        """Let all that is on its way arrive, and the scheduler look, until every job has ended."""
        for side in self.hosts.values():
            if not side.is_up:
                side.restart()
        for _ in range(_PASSES_MAX):
            self.report_inventory()
            for name, side in self.hosts.items():
                while side.queue:
                    self.answer(side)
                while side.journal.list_unfinished():
                    self.get_on(side, JobState.SUCCEEDED)
                self.send_all(side)
                self.apply_all(name)
            self.reconcile()
            self.no_attempt_is_claimed_twice()
            self.ends_never_change()
            if self.is_at_rest():
                break
            self.now += timedelta(seconds=61)
        self.check_agreement()

    def is_at_rest(self) -> bool:
        """Tell whether every job has ended and everything that was said of it is known."""
        with self.catalog.read() as session:
            rows = session.query(models.Job).all()
        return all(row.state in FINAL and row.gaps == 0 for row in rows)

    def check_agreement(self) -> None:
        """Journal and catalog say the same of every job."""
        assert self.is_at_rest(), [(job.job_id, job.state, job.host) for job in self.list_jobs()]
        for job in self.list_jobs():
            entries = {name: side.journal.find(job.job_id) for name, side in self.hosts.items()}
            known = {name: entry for name, entry in entries.items() if entry is not None}
            assert len(known) <= 1, known
            for name, entry in known.items():
                assert (name, entry.attempt, entry.state) == (job.host, job.attempt, job.state)
                assert self.told(name, job) == self.known(job)
            if not known:
                assert job.state is JobState.CANCELLED, (job.job_id, job.state)
        saved = {f"/s/{job.job_id}" for job in self.list_jobs() if job.state is JobState.SUCCEEDED}
        assert {point.path for point in queries.list_restore_points(self.catalog)} == saved

    def told(self, host: str, job: JobView) -> list[int | None]:
        """Return the numbers of all that the host has journaled about a job."""
        journal = self.hosts[host].journal
        journal.tell_again(job.job_id, job.attempt)
        entries = journal.list_unsent(1000)
        journal.mark_sent([entry.number for entry in entries])
        return [parse_event(entry.body).seq for entry in entries]

    def known(self, job: JobView) -> list[int]:
        """Return the numbers of all that the catalog has heard of it."""
        events = queries.list_job_events(self.catalog, job.job_id)
        return sorted(event.seq for event in events if event.attempt == job.attempt and event.seq > 0)

    # Parts of the above.

    def list_jobs(self) -> list[JobView]:
        """Return every job."""
        return queries.list_jobs(self.catalog)

    def ring(self, job: JobView) -> None:
        """Put a doorbell into the host's queue."""
        envelope = Envelope(
            job_id=job.job_id, attempt=job.attempt, op=job.op, host=job.host, domain=job.domain,
            params=job.params, issued_at=self.now, expires_at=self.now + timedelta(hours=24), nonce="0" * 32,
        )  # fmt: skip
        self.hosts[job.host].queue.append(envelope)
        with self.catalog.write() as session:
            row = session.get(models.Job, job.job_id)
            assert row is not None
            row.rung_at = self.now
