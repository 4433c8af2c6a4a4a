"""fleetsave points list --restorable-on: what is printed where, for people and for programs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine.domxml.requirements import read_requirements
from tasks.catalog import models, open_catalog
from tests.data.host_documents import COOKIE, DOMAIN, HOST

NEEDED = read_requirements(DOMAIN, COOKIE, where="x", saved_by="9.2.0")
POINTS = {
    "fits": NEEDED.to_dict(),
    "newer": replace(NEEDED, machine="pc-q35-11.0").to_dict(),
    "old": None,
}


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    """Give the URL of a catalog: three points on alpha, beta that said what it runs, a silent host."""
    url = f"sqlite:///{tmp_path}/c.sqlite"
    with open_catalog(url) as opened, opened.write() as session:
        session.add(models.Host(name="beta", capabilities=HOST.to_dict()))
        session.add(models.Host(name="silent"))
        session.add_all(
            models.RestorePoint(
                host="alpha", path=f"/store/{name}.save", domain_name=name, size_bytes=1,
                taken_at=datetime(2026, 1, 1, tzinfo=UTC), requirements=requirements,
            )
            for name, requirements in POINTS.items()
        )  # fmt: skip
    return url


def points_list(catalog: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command; nobody answers at its broker."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "points", "list", *words],
        env=os.environ
        | {"FLEETSAVE_CATALOG_URL": catalog, "FLEETSAVE_BROKER_URL": "redis://127.0.0.1:1/0", "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )


def documents(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return the points of a JSON answer by domain."""
    assert done.returncode == 0, done.stderr
    return {point["domain_name"]: point for point in json.loads(done.stdout)["points"]}


def test_people_see_the_fitting_ones_and_why_the_others_are_not(catalog: str) -> None:
    """One line on stderr; the image stays where it is, on the host in the column."""
    done = points_list(catalog, "--restorable-on", "beta")

    assert done.returncode == 0
    heading, *_, row = done.stdout.splitlines()
    assert heading.split() == ["domain", "host", "age", "size", "point"]
    assert (row.split()[0], row.split()[1], row.split()[-1]) == ("fits", "alpha", "/store/fits.save")
    assert "newer" not in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "may be old" not in line]
    assert line.startswith("fleetsave: 2 of 3 points do not count as restorable on beta")


def test_all_shows_the_reasons(catalog: str) -> None:
    """A row for each."""
    done = points_list(catalog, "--restorable-on", "beta", "--all")

    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "yes" in rows["fits"]
    assert "machine type pc-q35-11.0 (QEMU 9.2.0 has types up to pc-q35-9.2)" in rows["newer"]
    assert "unknown" in rows["old"]


def test_programs_get_a_verdict_on_each(catalog: str) -> None:
    """What is missing is structured; without the option nothing is judged."""
    judged = documents(points_list(catalog, "--restorable-on", "beta", "--json"))

    assert {name: point["restorable"] for name, point in judged.items()} == {
        "fits": True, "newer": False, "old": None,
    }  # fmt: skip
    (missing,) = judged["newer"]["missing"]
    assert (missing["what"], missing["wanted"], missing["certain"]) == ("machine type", "pc-q35-11.0", True)
    assert (judged["fits"]["missing"], judged["old"]["missing"]) == ([], [])
    assert judged["old"]["unknown"]
    plain = documents(points_list(catalog, "--json"))
    assert plain["fits"].keys() == judged["fits"].keys() - {"restorable", "missing", "unknown"}
    assert "requirements" not in plain["fits"]


def test_silent_host_takes_nothing_for_certain(catalog: str) -> None:
    """Nothing fits, and it is said why."""
    done = points_list(catalog, "--restorable-on", "silent")

    assert "/store/" not in done.stdout
    assert "3 for silent has not said yet what it can run" in done.stderr


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--restorable-on", "gamma"), "host gamma: never reported"),
        (("--all",), "--all needs --restorable-on"),
    ],
)
def test_question_that_has_no_answer_is_a_usage_error(
    catalog: str, words: tuple[str, ...], wanted: str
) -> None:
    """Exit code 2 and one line."""
    done = points_list(catalog, *words)

    assert done.returncode == 2
    assert wanted in done.stderr.splitlines()[-1]
