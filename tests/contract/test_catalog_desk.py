"""Submissions against the catalog; the broker is a closed port, so every doorbell fails and the rows wait."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from tasks.access import OperatorSettings, RoleSettings
from tasks.catalog import Catalog, SubmissionView, models, open_catalog, queries
from tasks.client import make_submission, sign_submission
from tasks.config import Settings
from tasks.desk import SubmissionDesk
from tasks.errors import UsageError
from tasks.keys import SigningKey, generate_key
from tasks.locate import DomainRef
from tasks.states import JobState
from tasks.submission import Submission
from tests.contract.catalog_scene import T0 as NOW
from tests.contract.catalog_scene import add_two_hosts, make_unheard_app

ALICE, BOB, OLD = generate_key("alice"), generate_key("bob"), generate_key("old")
SETTINGS = Settings(
    broker_url="redis://127.0.0.1:1/0",
    roles={
        "web": RoleSettings(operations=("save", "restore"), domains=("web-*",)),
        "all": RoleSettings(operations=("save", "checkpoint", "restore"), domains=("@all",)),
    },
    operators={
        "alice": OperatorSettings(key=ALICE.public.text, roles=("web",)),
        "bob": OperatorSettings(key=BOB.public.text, roles=("all",)),
        "old": OperatorSettings(key=OLD.public.text, roles=("all",), until=NOW),
    },
)


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    """Give an application whose broker is not there."""
    made = make_unheard_app(SETTINGS)
    yield made
    made.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Give a catalog with two hosts and an image of db-1."""
    with open_catalog(f"sqlite:///{tmp_path}/c.sqlite") as opened:
        add_two_hosts(opened)
        yield opened


class Office:
    """The desk, and somebody who hands submissions in."""

    def __init__(self, catalog: Catalog, app: Celery) -> None:
        self.catalog = catalog
        self.registry = CollectorRegistry()
        self.desk = SubmissionDesk(
            SETTINGS, catalog=catalog, app=app, registry=self.registry, now=lambda: NOW
        )

    def hand_in(self, submission: Submission, key: SigningKey) -> SubmissionView | None:
        """Hand a submission in; return what became of it."""
        self.desk.answer(*sign_submission(submission, key).values())
        return queries.find_submission(self.catalog, submission.run_id)

    def ask(
        self, key: SigningKey, *words: str | DomainRef, op: str = "save", **params: Any
    ) -> SubmissionView:
        """Ask for something new; return what became of it."""
        found = self.hand_in(make_submission(key, op=op, select=words, params=params, now=lambda: NOW), key)
        assert found is not None
        assert found.job_count == len(queries.list_jobs(self.catalog, run_id=found.run_id))
        return found

    def counted(self) -> dict[str, float]:
        """Return the results that were counted."""
        samples = next(iter(self.registry.collect())).samples
        return {s.labels["result"]: s.value for s in samples if s.name.endswith("_total") and s.value}


@pytest.fixture
def office(catalog: Catalog, app: Celery) -> Office:
    """Give a desk."""
    return Office(catalog, app)


def test_what_a_role_allows_becomes_one_job_for_each_domain(office: Office) -> None:
    """With the caller's id; they wait as queued for somebody to ring."""
    found = office.ask(ALICE, "web-*", bypass_cache="prefer")
    assert (found.state, found.reason, found.key_id, found.op) == ("accepted", None, "alice", "save")
    jobs = queries.list_jobs(office.catalog, run_id=found.run_id)
    assert sorted((job.domain_name, job.host, job.state) for job in jobs) == [
        ("web-1", "alpha", JobState.QUEUED),
        ("web-2", "alpha", JobState.QUEUED),
    ]
    assert all(job.params == {"bypass_cache": "prefer"} for job in jobs)
    assert office.counted() == {"accepted": 1}


@pytest.mark.parametrize(
    ("key", "words", "op", "params", "result", "reason"),
    [
        (ALICE, ["web-1", "db-1"], "save", {}, "forbidden", "db-1"),
        (ALICE, ["@all"], "save", {}, "forbidden", "may not"),
        (ALICE, ["web-1"], "checkpoint", {}, "forbidden", "checkpoint"),
        (ALICE, [DomainRef("db-9", "beta")], "save", {}, "forbidden", "db-9"),
        (ALICE, [], "restore", {"path": "/s/p"}, "forbidden", "db-1"),
        (ALICE, [DomainRef(None, "alpha")], "restore", {"path": "/s/p"}, "forbidden", "unknown image"),
        (OLD, ["web-1"], "save", {}, "forbidden", "counted until"),
        (BOB, ["nobody"], "save", {}, "refused", "no host has reported"),
        (BOB, ["both"], "save", {}, "refused", "alpha, beta"),
        (BOB, [DomainRef("web-1", "gamma")], "save", {}, "refused", "never reported"),
        (BOB, ["x-*"], "save", {}, "malformed", "no domain fits"),
        (BOB, ["web-1"], "save", {"to": "relative"}, "refused", "absolute"),
        (BOB, ["web-1"], "save", {"store": "/etc"}, "refused", "store"),
        (BOB, ["web-1", "alpha-web-1"], "save", {}, "refused", "not finished"),
    ],
)
def test_what_is_refused_leaves_its_reason_and_no_job(  # noqa: PLR0917
    office: Office,
    key: SigningKey,
    words: list[Any],
    op: str,
    params: dict[str, Any],
    result: str,
    reason: str,
) -> None:
    """Not even for the domains that would be allowed."""
    found = office.ask(key, *words, op=op, **params)
    assert (found.state, found.job_count) == ("refused", 0)
    assert reason in str(found.reason)
    assert office.counted() == {result: 1}
    assert queries.list_jobs(office.catalog) == []


def test_same_id_again_does_nothing(office: Office) -> None:
    """Whether it was accepted or refused, whatever it asks for the second time."""
    first = make_submission(BOB, op="save", select=["web-1"], run_id="r1", now=lambda: NOW)
    other = make_submission(BOB, op="save", select=["web-2"], run_id="r1", now=lambda: NOW)
    for submission in (first, first, other):
        found = office.hand_in(submission, BOB)
    assert found is not None
    assert [job.domain_name for job in queries.list_jobs(office.catalog)] == ["web-1"]
    assert office.counted() == {"accepted": 1, "duplicate": 2}

    refused = make_submission(BOB, op="save", select=["web-1"], run_id="r2", now=lambda: NOW)
    office.hand_in(refused, BOB)
    office.hand_in(refused, BOB)
    assert office.counted() == {"accepted": 1, "duplicate": 3, "refused": 1}


def test_busy_domain_is_left_out_of_a_pattern_and_refused_by_name(office: Office) -> None:
    """Who wrote a pattern wants the rest; who wrote a name wants to know."""
    office.ask(BOB, "web-1")
    found = office.ask(BOB, "web-*", "both*", op="checkpoint")
    assert (found.state, found.job_count) == ("accepted", 3)
    assert "web-1 on alpha" in str(found.reason)
    assert office.ask(BOB, "web-1", "db-1", op="checkpoint").state == "refused"
    assert office.ask(BOB, "web-*").state == "refused"


def tampered(submission: Submission, **changes: Any) -> bytes:
    """Return the document with other values."""
    return json.dumps(json.loads(submission.to_bytes()) | changes).encode()


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"v": 2}, "malformed"),
        ({"task": "fleetsave.run"}, "malformed"),
        ({"op": "wipe"}, "malformed"),
        ({"select": "web-1"}, "malformed"),
        ({"select": ["@everything"]}, "malformed"),
        ({"select": [{"domain": "web-1"}]}, "malformed"),
        ({"select": [{"domain": "a/b", "host": "alpha"}]}, "refused"),
        ({"params": []}, "malformed"),
        ({"nonce": 1}, "malformed"),
        ({"more": 1}, "malformed"),
        ({"expires_at": "2026-01-01T00:00:00.000Z", "issued_at": "2025-12-31T00:00:00.000Z"}, "expired"),
        ({"issued_at": "2026-01-01T00:06:00.000Z"}, "expired"),
    ],
)
def test_signed_nonsense_is_refused(office: Office, changes: dict[str, Any], result: str) -> None:
    """A key proves who it was, not that it means anything."""
    document = tampered(
        make_submission(BOB, op="save", select=["web-1"], run_id="r1", now=lambda: NOW), **changes
    )
    office.desk.answer(document.decode(), BOB.sign(document))
    assert office.counted() == {result: 1}
    found = queries.find_submission(office.catalog, "r1")
    assert found is not None
    assert found.state == "refused"
    assert queries.list_jobs(office.catalog) == []


def strangers() -> list[tuple[object, object]]:
    """Return submissions that no operator has signed as they are."""
    good = make_submission(BOB, op="save", select=["web-1"], run_id="r1", now=lambda: NOW)
    document, signature = sign_submission(good, BOB).values()
    own = generate_key("stranger")
    foreign = make_submission(own, op="save", select=["web-1"], run_id="r1", now=lambda: NOW)
    return [
        (document, None),
        (document, ALICE.sign(document.encode())),
        (document.replace("web-1", "web-2"), signature),
        (document.replace('"bob"', '"alice"'), signature),
        tuple(sign_submission(foreign, own).values()),
    ]  # type: ignore[list-item]


def test_stranger_takes_no_id_away(office: Office) -> None:
    """Refused and remembered, yet the operator's own submission of that id is taken."""
    asked = strangers()
    for submission, signature in [*asked, ("no json", "x"), (None, None), ("x" * 2**21, "x")]:
        office.desk.answer(submission, signature)
    assert office.counted() == {"bad_signature": len(asked), "malformed": 3}
    assert queries.find_submission(office.catalog, "r1") is None
    rows = queries.list_submissions(office.catalog)
    assert len(rows) == len(asked) + 3
    assert not any(row.is_authentic or row.job_count for row in rows)

    good = make_submission(BOB, op="save", select=["web-1"], run_id="r1", now=lambda: NOW)
    found = office.hand_in(good, BOB)
    assert found is not None
    assert found.state == "accepted"


def test_strangers_cannot_fill_the_catalog(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest are remembered; what operators asked for is not forgotten for them."""
    monkeypatch.setattr("tasks.desk._STRANGERS_MAX", 5)
    office.ask(BOB, "web-1")
    for _ in range(20):
        office.desk.answer("no json", None)
    with office.catalog.read() as session:
        assert session.scalar(select(func.count()).select_from(models.Submission)) == 6


def test_doorbell_is_no_submission(office: Office) -> None:
    """Should somebody use one key for both: the documents share no set of keys."""
    from tasks.envelope import Envelope

    job = Envelope(
        job_id="j1", attempt=1, op="save", host="alpha", domain="web-1", params={}, issued_at=NOW,
        expires_at=NOW + timedelta(hours=1), nonce="0" * 32, key_id="bob",
    )  # fmt: skip
    office.desk.answer(job.to_bytes().decode(), BOB.sign(job.to_bytes()))
    assert office.counted() == {"malformed": 1}


@pytest.mark.parametrize(
    ("op", "words"), [("wipe", ["web-1"]), ("save", ["@everything"]), ("save", ["a/b"]), ("save", [""])]
)
def test_client_refuses_what_no_control_plane_would_take(op: str, words: list[str]) -> None:
    """Before it is sent."""
    with pytest.raises(UsageError):
        make_submission(BOB, op=op, select=words)


def test_new_submissions_have_ids_of_their_own() -> None:
    """And nonces."""
    first, second = (make_submission(BOB, op="save", select=["web-1"]) for _ in range(2))
    assert first.run_id != second.run_id
    assert first.nonce != second.nonce


def test_same_submission_at_the_same_moment_is_taken_once(catalog: Catalog, app: Celery) -> None:
    """Two control planes may read the queue while one takes over from the other."""
    submission = make_submission(BOB, op="save", select=["@all"], run_id="r1", now=lambda: NOW)
    offices = [Office(catalog, app) for _ in range(4)]
    threads = [threading.Thread(target=office.hand_in, args=(submission, BOB)) for office in offices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = [office.counted() for office in offices]
    assert sorted(map(str, counted)) == ["{'accepted': 1.0}"] + ["{'duplicate': 1.0}"] * 3
    assert len(queries.list_jobs(catalog)) == 5
