"""What a worker refuses, with a real Redis and a real worker process: counted, and nothing touched."""

import json
import pickle
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue

from tasks.app import RUN_TASK
from tasks.broker import queue_name
from tasks.catalog import queries
from tasks.events import apply_events
from tasks.keys import generate_key, write_key
from tasks.metrics import DOORBELL_RESULTS
from tasks.states import JobState
from tasks.submit import DomainRef, submit
from tasks.wait import wait_jobs

pytestmark = pytest.mark.integration


def counted(bench: Any) -> dict[str, float]:
    """Return how many doorbells were heard, by result; only those that were."""
    found = {
        result: bench.worker.metric("fleetsave_doorbells_total", result=result) for result in DOORBELL_RESULTS
    }
    return {result: number for result, number in found.items() if number}


def ended(bench: Any, wait_until: Callable[..., Any], job_id: str) -> None:
    """Wait until a good job has ended, after everything that was sent before it."""
    wait_until(lambda: bench.worker.metric("fleetsave_jobs_total", op="save", outcome="succeeded"))
    assert [started for started, _ in bench.worker.engine_starts()] == [job_id]


def signed(bench: Any, document: dict[str, Any] | bytes, key: Any = None) -> tuple[str, str]:
    """Return a document and its signature."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return data.decode(), (key or bench.key).sign(data)


def strangers_doorbells(bench: Any) -> list[tuple[object, object]]:
    """Return envelopes that nobody who is trusted has signed as they are."""
    good = bench.envelope()
    data = good.to_bytes()
    signature = bench.key.sign(data)
    own = generate_key("stranger")
    imposter = generate_key(bench.key.key_id)
    return [
        (data.decode(), None),
        (data.decode(), ""),
        (data.decode(), signature[:-4]),
        (data.decode(), {"signature": signature}),
        (data.decode(), imposter.sign(data)),
        signed(bench, bench.envelope(key_id=own.key_id).to_bytes(), own),
        (data.decode(), bench.key.sign(bench.envelope().to_bytes())),
        (data.replace(b'"op":"save"', b'"op":"restore"').decode(), signature),
        (data.replace(good.host.encode(), b"elsewhere").decode(), signature),
        (data.replace(b'"web-1"', b'"web-2"').decode(), signature),
        (data.decode() + " ", signature),
        (bench.envelope(key_id=None).to_bytes().decode(), None),
    ]


def mistaken_doorbells(bench: Any) -> list[tuple[object, object]]:
    """Return envelopes that are signed, and mean nothing that a host may do."""
    plain = json.loads(bench.envelope().to_bytes())
    twice = bench.envelope().to_bytes().replace(b'{"attempt":1', b'{"attempt":2,"attempt":1')
    return [
        signed(bench, plain | {"v": 2}),
        signed(bench, plain | {"domain": "../../etc"}),
        signed(bench, plain | {"op": "wipe"}),
        signed(bench, plain | {"params": {"to": "/srv/../etc/passwd"}}),
        signed(bench, plain | {"params": {"store": "/etc"}}),
        signed(bench, twice),
        ("x" * 10_000_000, bench.key.sign(b"x")),
        (plain, bench.key.sign(b"x")),
    ]


def test_strangers_are_refused(bench: Any, wait_until: Callable[..., Any]) -> None:
    """Whatever they change, and whoever they say they are."""
    doorbells = strangers_doorbells(bench)
    for envelope, signature in doorbells:
        bench.ring(envelope, signature)
    good = bench.envelope()
    bench.ring(good)
    ended(bench, wait_until, good.job_id)
    assert counted(bench) == {"bad_signature": len(doorbells), "claimed": 1}


def test_signed_nonsense_is_refused(bench: Any, wait_until: Callable[..., Any]) -> None:
    """A signature makes no sense of it: another version, paths for names, ten megabytes."""
    doorbells = mistaken_doorbells(bench)
    for envelope, signature in doorbells:
        bench.ring(envelope, signature)
    now = bench.envelope().issued_at
    bench.ring(bench.envelope(host="elsewhere"))
    bench.ring(bench.envelope(issued_at=now - timedelta(hours=2), expires_at=now - timedelta(hours=1)))
    bench.ring(bench.envelope(issued_at=now + timedelta(minutes=10)))
    good = bench.envelope()
    bench.ring(good)
    ended(bench, wait_until, good.job_id)
    assert counted(bench) == {"malformed": len(doorbells), "wrong_host": 1, "expired": 2, "claimed": 1}


def test_job_that_has_ended_is_not_done_again(bench: Any, wait_until: Callable[..., Any]) -> None:
    """The very message, sent again by who overheard it; also to the worker after this one."""
    envelope = bench.envelope()
    bench.ring(envelope)
    ended(bench, wait_until, envelope.job_id)
    bench.ring(envelope)
    wait_until(lambda: counted(bench) == {"claimed": 1, "duplicate": 1})
    bench.worker.end(signal.SIGTERM)
    bench.worker.start()
    bench.ring(envelope)
    wait_until(lambda: counted(bench) == {"duplicate": 1})
    assert [job_id for job_id, _ in bench.worker.engine_starts()] == [envelope.job_id]


def test_keys_are_exchanged_without_a_restart(bench: Any, wait_until: Callable[..., Any]) -> None:
    """The new one counts from when its file is there, the old one until its file is gone."""
    old, new = bench.key, generate_key("control-2027")
    write_key(new, bench.worker.folder)
    for key in (old, new):
        bench.key = key
        bench.ring(bench.envelope())
    wait_until(lambda: counted(bench) == {"claimed": 2})

    (bench.worker.folder / f"{old.key_id}.pub").unlink()
    for key in (old, new):
        bench.key = key
        bench.ring(bench.envelope())
    wait_until(lambda: counted(bench) == {"claimed": 3, "bad_signature": 1})


class _Bomb:
    """An object that leaves a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_garbage_is_dropped_and_does_not_end_the_worker(
    bench: Any, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """A pickle, a task that is not ours, and whatever can be pushed into a Redis list."""
    name = queue_name(bench.worker.host)
    queue = Queue(name, exchange=Exchange(""), routing_key=name)
    with bench.app.connection_for_write() as connection:
        body = pickle.dumps(((), {"envelope": _Bomb(tmp_path / "boom")}, {}))
        connection.Producer().publish(
            body, routing_key=name, content_type="application/x-python-serialize", content_encoding="binary",
            headers={"task": RUN_TASK, "id": "1", "lang": "py"},
        )  # fmt: skip
    bench.app.send_task("os.system", args=["true"], queue=queue)
    raw = [b"", b"no json", b"\xff\xfe", b"[]", b"{}", b"null", b"[" * 100_000, b'{"body": "x"}']
    message = {
        "body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", "headers": {},
        "properties": {"delivery_info": {}, "delivery_tag": "t", "body_encoding": "base64"},
    }  # fmt: skip
    odd = ({"headers": {"task": RUN_TASK}}, {"headers": None}, {"body": "\u2603"}, {"properties": {}})
    raw += [json.dumps(message | changes).encode() for changes in odd]
    for data in raw:
        bench.redis.lpush(name, data)
    good = bench.envelope()
    bench.ring(good)
    ended(bench, wait_until, good.job_id)
    assert not (tmp_path / "boom").exists()
    assert counted(bench) == {"malformed": len(raw) + 2, "claimed": 1}


def test_signed_job_writes_where_the_host_allows(bench: Any, wait_until: Callable[..., Any]) -> None:
    """The real engine refuses with 23 what is outside, whoever signed it."""
    target = Path("/etc/cron.d/fleetsave-must-not-be-here")
    bench.worker.end(signal.SIGTERM)
    bench.worker.program = ("-m", "cli.main", "worker")
    bench.worker.start()

    def listed() -> bool:
        apply_events(bench.catalog, bench.redis, [bench.worker.host])
        return any(one.name == "test" for one in queries.list_domains(bench.catalog, host=bench.worker.host))

    wait_until(listed, what="inventory")
    try:
        [job] = submit(
            bench.catalog, bench.app, op="save", domains=[DomainRef("test", bench.worker.host)],
            params={"to": str(target)},
        )  # fmt: skip
        done = list(wait_jobs(bench.catalog, bench.redis, [job.job_id], timeout_seconds=30))[-1]
        assert not target.exists()
    finally:
        target.unlink(missing_ok=True)
    assert done.state is JobState.FAILED
    assert done.error is not None
    assert done.error["code"] == 23


def test_worker_without_a_trusted_key_ends_with_one_line(bench: Any) -> None:
    """Exit code 2; it says what to do, and that it may be told to be insecure is for the manual."""
    bench.worker.end(signal.SIGTERM)
    for file in bench.worker.folder.glob("*.pub"):
        file.unlink()
    bench.worker.program = ("-m", "cli.main", "worker")
    before = bench.worker.log_size()
    bench.worker.start(is_awaited=False)
    assert bench.worker.end(None) == 2
    [line] = bench.worker.log_text(before).splitlines()
    assert "no key is trusted" in line
    assert "fleetsave keys generate" in line


def test_insecure_worker_runs_what_nobody_signed_and_says_so(
    bench: Any, wait_until: Callable[..., Any]
) -> None:
    """In its log and in a metric: for a test, never by oversight."""
    bench.worker.end(signal.SIGTERM)
    assert not any("insecure" in str(line.get("event")) for line in bench.worker.log_lines())
    bench.worker.access = {
        "FLEETSAVE_TRUST__INSECURE": "1",
        **{key: value for key, value in bench.worker.access.items() if "BROKER" in key},
    }
    bench.worker.start()
    assert any("insecure" in str(line.get("event")) for line in bench.worker.log_lines())
    assert bench.worker.metric("fleetsave_worker_insecure") == 1
    envelope = bench.envelope(key_id=None)
    bench.ring(envelope.to_bytes().decode())
    ended(bench, wait_until, envelope.job_id)
