"""Whether a host can take a restore point, by what both have said."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from engine.domxml.requirements import read_requirements
from tasks.catalog import RestorePointView
from tasks.restorable import judge_points, sum_up
from tests.data.host_documents import COOKIE, DOMAIN, HOST

NEEDED = read_requirements(DOMAIN, COOKIE, where="x", saved_by="9.2.0")


def point(requirements: dict[str, Any] | None) -> RestorePointView:
    """Return a point with these requirements."""
    return RestorePointView(
        host="alpha", path="/p", job_id=None, domain_name="web-1", domain_uuid=None, manifest_path=None,
        size_bytes=1, checksum_algorithm=None, checksum_value=None, taken_at=datetime(2026, 1, 1, tzinfo=UTC),
        requirements=requirements,
    )  # fmt: skip


FITTING = point(NEEDED.to_dict())
NEWER = point(replace(NEEDED, machine="pc-q35-11.0").to_dict())
DOUBTFUL = point(replace(NEEDED, emulator="/opt/qemu").to_dict())


def test_fitting_missing_and_doubtful() -> None:
    """Only what is certainly there counts; something that may be missing is no yes and no no."""
    fitting, newer, doubtful = judge_points([FITTING, NEWER, DOUBTFUL], HOST)

    assert (fitting.is_restorable, fitting.word, fitting.reason) == (True, "yes", "")
    assert (newer.is_restorable, newer.word) == (False, "no")
    assert "machine type pc-q35-11.0" in newer.reason
    assert (doubtful.is_restorable, doubtful.word) == (None, "unknown")
    assert "/opt/qemu" in doubtful.reason


def test_certain_reasons_come_without_the_doubtful() -> None:
    """One is enough."""
    (both,) = judge_points([point(replace(NEEDED, emulator="/x", machine="pc-q35-11.0").to_dict())], HOST)

    assert [each.what for each in both.missing] == ["emulator", "machine type"]
    assert "emulator" not in both.reason


def test_what_was_never_said_is_unknown() -> None:
    """Of an old point, of a newer version's point, of a host that is silent."""
    verdicts = [
        *judge_points([point(None), point({}), point({"v": 99})], HOST),
        *judge_points([FITTING], "beta has not said yet what it can run"),
    ]

    assert [verdict.is_restorable for verdict in verdicts] == [None] * 4
    assert all(verdict.reason for verdict in verdicts)
    assert verdicts[0].to_dict() == {
        "restorable": None, "missing": [], "unknown": "what its guest needs was not written down",
    }  # fmt: skip


def test_sum_says_how_many_and_why() -> None:
    """Equal reasons together; nothing where all fit."""
    verdicts = judge_points([FITTING, NEWER, NEWER, DOUBTFUL, point(None)], HOST)

    line = sum_up(verdicts, "beta")

    assert line.startswith("4 of 5 points do not count as restorable on beta (2 of them: nobody can tell): ")
    assert "2 for machine type" in line
    assert "1 for emulator" in line
    assert sum_up(verdicts[:1], "beta") == ""
