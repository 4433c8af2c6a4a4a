"""fleetsave catalog and fleetsave jobs on a catalog of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.catalog import models, open_catalog, queries
from tests.contract.test_catalog_history import write_point

pytestmark = pytest.mark.integration

_ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give the URL of a catalog that nobody has made yet."""
    return f"sqlite:///{tmp_path}/c.sqlite"


@pytest.fixture
def run(tmp_path: Path, url: str) -> Run:
    """Give a function that runs fleetsave with --json; it returns status, document and standard error."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "FLEETSAVE_CATALOG_URL": url,
        "FLEETSAVE_BROKER_URL": "redis://127.0.0.1:1/0",
        "FLEETSAVE_HOST__NAME": "alpha",
    }

    def call(*words: str) -> tuple[int, Any, str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *words, "--json"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout), done.stderr

    return call


def test_catalog_is_made_and_brought_up(run: Run) -> None:
    """It says from where to where."""
    status, first, _ = run("catalog", "migrate")
    assert (status, first["before"]) == (0, None)
    assert run("catalog", "migrate")[1] == {"before": first["after"], "after": first["after"]}


def test_store_is_rebuilt_from_the_command_line(run: Run, url: str, tmp_path: Path) -> None:
    """Twice the same; status 3 where something could not be read; a store has to be named."""
    store = tmp_path / "store"
    point = write_point(store, "p")
    command = ("catalog", "rebuild", "--store", str(store), "--host", "beta")
    expected = {"store": str(store), "added": 1, "known": 0, "unreadable": []}
    assert run(*command)[:2] == (0, {"host": "beta", "stores": [expected]})
    assert run(*command)[:2] == (0, {"host": "beta", "stores": [expected | {"added": 0, "known": 1}]})
    (point / "manifest.json").write_text("no json")
    status, document, _ = run(*command)
    assert status == 3
    assert document["stores"][0]["unreadable"][0]["path"] == str(point / "manifest.json")
    assert run("catalog", "rebuild")[0] == 2
    assert run(*command[:-1], "no host")[0] == 2
    with open_catalog(url) as catalog:
        assert [view.host for view in queries.list_restore_points(catalog)] == ["beta"]


def test_old_history_is_pruned_from_the_command_line(run: Run, url: str) -> None:
    """Counted with --dry-run, then forgotten; an age that is none is a usage error."""
    ended = datetime.now(UTC) - timedelta(days=100)
    with open_catalog(url) as catalog, catalog.write() as session:
        session.add(
            models.Job(
                id="abc1", op="save", host="alpha", domain="d", target="d", params={}, state="failed",
                created_at=ended, finished_at=ended,
            )
        )  # fmt: skip
    status, document, _ = run("catalog", "prune", "--older-than", "90d", "--dry-run")
    assert (status, document["jobs"], document["dry_run"]) == (0, 1, True)
    assert run("jobs", "show", "abc")[1]["job"]["job_id"] == "abc1"
    assert run("catalog", "prune", "--older-than", "101d")[1]["jobs"] == 0
    assert run("catalog", "prune", "--older-than", "12w")[1]["jobs"] == 1
    assert run("jobs", "show", "abc")[0] == 2
    for wrong in ("90", "d", "0d", "-1d", "1y", "999999w"):
        assert run("catalog", "prune", "--older-than", wrong)[0] == 2
