"""Measure what is asked of a catalog with a million jobs on PostgreSQL: `make catalog-scale`.

`catalog_scale.py [--jobs N] [--times N] [--limit-ms N]`: prints median and slowest of each question in
milliseconds; the exit status is 1 where a median that is held to the limit is above it. A private server is
started for it, on this machine's disk, and taken down afterwards.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402 - found through the line above, as what follows
from celery import Celery  # noqa: E402
from redis import Redis  # noqa: E402

from cli.sandbox import Sandbox  # noqa: E402
from scheduler.reconcile import Limits  # noqa: E402
from scheduler.reconciler import Reconciler  # noqa: E402
from tasks.app import make_app  # noqa: E402
from tasks.broker import open_redis  # noqa: E402
from tasks.cancel import repeat_cancels  # noqa: E402
from tasks.catalog import Catalog, open_catalog, queries  # noqa: E402
from tasks.catalog.prune import count_prunable, prune  # noqa: E402
from tasks.catalog.reconciling import count_states, find_oldest_queued  # noqa: E402
from tasks.config import Settings  # noqa: E402
from tasks.retry import ring_due  # noqa: E402
from tasks.states import UNFINISHED, JobState  # noqa: E402

_HOSTS: Final = 300
_DOMAINS: Final = 10_000
#: Of these many jobs, the newest, one in two runs and one in two waits.
_UNFINISHED: Final = 2_000
#: A job every half minute: a year, and a little less.
_SECONDS_BETWEEN: Final = 30
#: Longer than anything has waited there.
_LONG: Final = timedelta(days=3650)

_FILL: Final = f"""
INSERT INTO hosts (name, uri, libvirt_up, seen_at, domains_at)
SELECT 'host-' || n, 'qemu:///system', true, now(), now() FROM generate_series(0, {_HOSTS - 1}) AS n;

INSERT INTO domains (host, uuid, name, state, memory_bytes, persistent, has_managed_save, tags, seen_at)
SELECT 'host-' || n % {_HOSTS}, md5('d' || n)::uuid::text, 'web-' || n, 'running', 8589934592, true, false,
    '["prod"]', now()
FROM generate_series(0, {_DOMAINS - 1}) AS n;

INSERT INTO jobs (id, run_id, op, host, domain, domain_name, domain_uuid, target, params, state, attempt,
    reason, result, step, step_seq, bytes_done, bytes_total, progress_seq, created_at, rung_at, heard_at,
    gaps, started_at, finished_at)
SELECT md5('j' || n), 'run-' || n / 1000, 'save', 'host-' || d % {_HOSTS}, 'web-' || d, 'web-' || d,
    md5('d' || d)::uuid::text, md5('d' || d)::uuid::text, '{{}}', state, 1,
    CASE state WHEN 'failed' THEN 'no space left on the store' END,
    CASE state WHEN 'succeeded' THEN json_build_object('domain', 'web-' || d, 'bytes', 4294967296,
        'path', '/srv/fleetsave/' || md5('d' || d) || '/' || n, 'checksum', '{{}}'::json) END,
    'published', 9, 4294967296, 4294967296, 20, created_at, created_at, created_at, 0, created_at,
    CASE WHEN state IN ('succeeded', 'failed') THEN created_at + interval '20 seconds' END
FROM (
    SELECT n, n::bigint * 7919 % {_DOMAINS} AS d,
        CASE WHEN n > %(jobs)s - {_UNFINISHED} THEN CASE n % 2 WHEN 0 THEN 'running' ELSE 'queued' END
            WHEN n % 40 = 0 THEN 'failed' ELSE 'succeeded' END AS state,
        now() - (%(jobs)s - n) * interval '{_SECONDS_BETWEEN} seconds' AS created_at
    FROM generate_series(1, %(jobs)s) AS n
) AS made;

INSERT INTO job_events (job_id, attempt, seq, after_seq, at, kind, body)
SELECT md5('j' || n), 1, 1, 0, now(), 'state', '{{"state": "running"}}'
FROM generate_series(1, %(jobs)s / 4) AS n;
"""  # noqa: S608 - of our own numbers


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How long one question took, milliseconds."""

    question: str
    median: float
    slowest: float
    is_held: bool


def fill(url: str, jobs: int) -> float:
    """Make the rows; return how many seconds it took."""
    started = time.monotonic()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in _FILL.split(";\n\n"):
            # The server is asked to put no parameters in: it would have to know their types.
            connection.execute(statement.replace("%(jobs)s", str(jobs)).encode())
        connection.execute("VACUUM ANALYZE")
    return time.monotonic() - started


def measure(question: str, ask: Callable[[], Any], times: int, *, is_held: bool = True) -> Figure:
    """Ask a number of times, after once for nothing."""
    ask()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - started) * 1000)
    return Figure(question=question, median=statistics.median(taken), slowest=max(taken), is_held=is_held)


def ask_all(catalog: Catalog, redis: Redis, app: Celery, times: int) -> list[Figure]:
    """Return the figures of every question."""
    # Nothing is to be done about any job: what is measured is finding that out.
    limits = Limits(ring_again=_LONG, silence=_LONG, host_gone=_LONG)
    reconciler = Reconciler(catalog, redis, app, limits)
    some = queries.list_jobs(catalog, states=[JobState.FAILED], limit=1)[0]
    listings: dict[str, dict[str, Any]] = {
        "jobs list": {},
        "jobs list --state failed": {"states": [JobState.FAILED]},
        "jobs list --state lost (none)": {"states": [JobState.LOST]},
        "jobs list --state queued --state running": {"states": UNFINISHED},
        "jobs list --host": {"host": "host-7"},
        "jobs list --host --state failed": {"host": "host-7", "states": [JobState.FAILED]},
        "jobs list --domain NAME": {"domain": "web-77"},
        "jobs list --domain UUID": {"domain": some.domain_uuid},
        "jobs list --domain (unknown)": {"domain": "nobody"},
        "jobs of one run": {"run_id": "run-7"},
    }
    figures = [
        measure(name, lambda how=how: queries.list_jobs(catalog, limit=50, **how), times)  # type: ignore[misc]
        for name, how in listings.items()
    ]
    now = datetime.now(UTC)
    figures += [
        measure("jobs show BEGINNING", lambda: queries.find_jobs_beginning(catalog, some.job_id[:12]), times),
        measure("one pass of the reconciler", lambda: reconciler.reconcile(None, now=now), times),
        measure("jobs whose next attempt is due (none)", lambda: ring_due(catalog, app, now), times),
        measure("jobs that shall stop (none)", lambda: repeat_cancels(catalog, redis, now=now), times),
        measure("metrics: oldest queued", lambda: find_oldest_queued(catalog), times),
        measure("metrics: jobs by state", lambda: count_states(catalog), times, is_held=False),
        measure("catalog prune --dry-run", lambda: count_prunable(catalog, before=now), 3, is_held=False),
        measure("catalog prune, 500 jobs", lambda: prune_some(catalog), 3, is_held=False),
    ]
    return figures


def prune_some(catalog: Catalog) -> None:
    """Forget the 500 oldest jobs."""
    oldest = count_states(catalog)[JobState.SUCCEEDED]
    assert oldest > 0
    with catalog.read() as session:
        from sqlalchemy import select

        from tasks.catalog import models

        query = select(models.Job.finished_at).where(models.Job.finished_at.is_not(None))
        before = session.scalars(query.order_by(models.Job.finished_at).offset(500).limit(1)).one()
    assert before is not None
    assert prune(catalog, before=before).jobs == 500  # noqa: PLR2004


def main() -> int:
    """Fill a database and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1_000_000, help="rows (default: %(default)s)")
    parser.add_argument("--times", type=int, default=21, help="of each question (default: %(default)s)")
    parser.add_argument("--limit-ms", type=float, default=100.0, help="of a median (default: %(default)s)")
    arguments = parser.parse_args()
    with Sandbox(()) as sandbox, sandbox.postgres() as postgres, sandbox.redis() as redis_server:
        url = postgres.create_database()
        settings = Settings(broker_url=redis_server.url, catalog_url=url)
        app = make_app(settings)
        with open_catalog(url) as catalog, open_redis(redis_server.url, client_name="benchmark") as redis:
            seconds = fill(url, arguments.jobs)
            print(f"{arguments.jobs} jobs on PostgreSQL, made in {seconds:.1f} s; milliseconds")
            figures = ask_all(catalog, redis, app, arguments.times)
        app.close()
    print(f"{'question':<44}{'median':>10}{'slowest':>10}")
    for one in figures:
        mark = "" if one.is_held else "  (not held to the limit)"
        print(f"{one.question:<44}{one.median:>10.1f}{one.slowest:>10.1f}{mark}")
    slow = [one.question for one in figures if one.is_held and one.median > arguments.limit_ms]
    print(f"above {arguments.limit_ms:g} ms: {', '.join(slow)}" if slow else "all within the limit")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
