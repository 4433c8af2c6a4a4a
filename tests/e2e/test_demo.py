import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ARGV = [sys.executable, "-m", "cli.main", "demo"]


def test_demo_proves_itself() -> None:
    """Exit code 0 and one JSON document in which every check passed and every guest went on."""
    done = subprocess.run([*ARGV, "--json"], capture_output=True, text=True, timeout=280, check=False)

    assert done.returncode == 0, done.stderr + done.stdout
    document = json.loads(done.stdout)
    assert document["passed"]
    assert all(check["passed"] for check in document["checks"])
    guests = {guest["domain"]: guest for guest in document["guests"]}
    assert guests.keys() == {"web-1", "web-2", "db-1", "db-2"}
    for guest in guests.values():
        assert 0 < guest["counter_before_save"] < guest["counter_after_restore"]
        assert guest["memory_ok"]
        assert guest["save"]["bypass_cache"]["resident_bytes"] == 0
        assert not Path(guest["save"]["path"]).exists()
    assert guests["web-2"]["restore"]["dxml_changes"]
    assert (guests["db-2"]["saved_on"], guests["db-2"]["restored_on"]) == ("beta", "alpha")
    moved = {change["metric"].partition("{")[0] for change in document["metrics"]}
    assert moved >= {
        "fleetsave_jobs_total",
        "fleetsave_bytes_written_total",
        "fleetsave_guest_paused_seconds_sum",
    }


def test_interrupted_demo_leaves_nothing() -> None:
    """Ctrl-C while guests boot: 130, and the users it made, their processes and files are gone."""
    with subprocess.Popen(ARGV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as playing:
        assert playing.stdout is not None
        users: set[str] = set()
        for line in playing.stdout:
            users |= set(re.findall(r"user (fsbx\S+)", line))
            if "guests boot" in line:
                break
        homes = {name: pwd.getpwnam(name).pw_dir for name in users}
        playing.send_signal(signal.SIGINT)
        _, errors = playing.communicate(timeout=120)

    assert playing.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("fleetsave: interrupted")
    assert len(users) == 2
    assert not users & {entry.pw_name for entry in pwd.getpwall()}
    assert not any(os.path.lexists(home) for home in homes.values())
