import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.fleet import find_point
from tasks.catalog import Catalog, models, open_catalog, queries
from tasks.errors import UsageError

NAME = "20260131T220000Z-7f7f7f7f"
UUID = "11111111-2222-3333-4444-555555555555"
NOW = datetime(2026, 1, 31, 22, 0, 0, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give the URL of a catalog that knows hosts alpha and beta, and web-1 on alpha."""
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    with open_catalog(url) as catalog, catalog.write() as session:
        session.add_all([models.Host(name="alpha"), models.Host(name="beta")])
        session.flush()
        session.add(
            models.Domain(
                host="alpha", uuid=UUID, name="web-1", state="running", memory_bytes=1, persistent=True,
                has_managed_save=False, tags=[], seen_at=NOW,
            )
        )  # fmt: skip
    return url


def _add_point(catalog: Catalog, host: str, path: str) -> None:
    with catalog.write() as session:
        session.add(models.RestorePoint(host=host, path=path, size_bytes=1, taken_at=NOW))


def test_restore_point_is_found_by_its_name(url: str) -> None:
    """The catalog knows path and host; nobody has to type them."""
    with open_catalog(url) as catalog:
        _add_point(catalog, "alpha", f"/store/{UUID}/{NAME}")

        assert find_point(catalog, NAME, None) == (f"/store/{UUID}/{NAME}", "alpha")


def test_name_on_two_hosts_is_refused_until_one_is_named(url: str) -> None:
    """Two hosts must not both start the guest."""
    with open_catalog(url) as catalog:
        for host in ("alpha", "beta"):
            _add_point(catalog, host, f"/store-{host}/{UUID}/{NAME}")

        with pytest.raises(UsageError, match="alpha, beta"):
            find_point(catalog, NAME, None)
        assert find_point(catalog, NAME, "beta") == (f"/store-beta/{UUID}/{NAME}", "beta")


def test_anything_else_is_a_path(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the caller's working directory."""
    monkeypatch.chdir(tmp_path)
    with open_catalog(url) as catalog:
        assert find_point(catalog, "a.save", "alpha") == (f"{tmp_path}/a.save", "alpha")
        assert find_point(catalog, "/srv/a.save", None) == ("/srv/a.save", None)


def _run(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a broker that nobody serves."""
    settings = {"FLEETSAVE_CATALOG_URL": url, "FLEETSAVE_BROKER_URL": "redis://127.0.0.1:1/0"}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        env=os.environ | settings, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_without_redis_the_job_is_queued_and_named(url: str) -> None:
    """Exit code 40, one line; the row waits for somebody to ring."""
    done = _run(url, "save", "web-1")

    with open_catalog(url) as catalog:
        job = queries.list_jobs(catalog)[0]
    assert (done.returncode, done.stderr.count("\n")) == (40, 1)
    assert job.state == "queued"
    assert job.job_id in done.stderr


def test_without_redis_an_unknown_domain_is_not_called_unknown(url: str) -> None:
    """The catalog may only not have heard of it yet; nothing is queued."""
    done = _run(url, "save", "web-9", "--json")

    with open_catalog(url) as catalog:
        assert queries.list_jobs(catalog) == []
    assert (done.returncode, done.stderr) == (40, "")
    assert json.loads(done.stdout)["error"]["fields"].get("job_ids") == []


def test_lists_come_from_the_catalog_while_redis_is_down(url: str) -> None:
    """What was last known is better than nothing, as long as it is called that."""
    done = _run(url, "domains", "list", "--json")

    assert done.returncode == 0
    assert [domain["name"] for domain in json.loads(done.stdout)["domains"]] == ["web-1"]
    assert "may be old" in done.stderr


def test_unreachable_catalog_is_one_line(tmp_path: Path) -> None:
    """Exit code 40, and the setting is named."""
    done = _run(f"sqlite:///{tmp_path}/missing/catalog.sqlite", "jobs", "list")

    assert (done.returncode, done.stderr.count("\n")) == (40, 1)
    assert "catalog" in done.stderr
