"""The PostgreSQL server that tests and benchmarks are given."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cli.sandbox import PostgresServer, Sandbox
from cli.sandbox.processes import list_owned

pytestmark = pytest.mark.integration

_ROOT = Path(__file__).resolve().parents[2]

#: Opens a server, says whose it is, and waits to be killed.
_OWNER = """
import sys
from pathlib import Path
from cli.sandbox import Sandbox
sandbox = Sandbox((), parent=Path(sys.argv[1]))
print(sandbox.start_postgres().folder.owner(), flush=True)
sys.stdin.read()
"""


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement and return its rows."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_server_keeps_what_was_committed_and_opens_no_port(postgres_server: PostgresServer) -> None:
    """Through a crash, too; it runs as nobody who matters."""
    postgres_server.start()
    url = postgres_server.create_database()
    query(url, "CREATE TABLE kept AS SELECT 7 AS n")
    first = postgres_server.pid
    postgres_server.kill()
    postgres_server.start()
    assert query(url, "SELECT n FROM kept") == [(7,)]
    assert query(url, "SHOW listen_addresses") == [("",)]
    assert postgres_server.pid != first
    assert os.stat(f"/proc/{postgres_server.pid}").st_uid != 0  # noqa: PTH116 - a process, not a file


@pytest.mark.parametrize("error", [AssertionError, KeyboardInterrupt])
def test_nothing_is_left_of_a_server_whose_test_failed(error: type[BaseException]) -> None:
    """Or was interrupted."""
    left: list[tuple[int, Path]] = []

    def fail() -> None:
        with Sandbox(()) as sandbox, sandbox.postgres() as server:
            left.append((server.folder.stat().st_uid, sandbox.base))
            raise error

    with pytest.raises(error):
        fail()
    [(uid, base)] = left
    assert list_owned({uid}) == []
    assert not base.exists()


def test_server_of_a_killed_owner_is_swept(wait_until: Callable[..., object]) -> None:
    """By the next sandbox."""
    folder = Path("/var/tmp")
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(folder)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert name.startswith("fsbx")
        uid = int(subprocess.run(["id", "-u", name], capture_output=True, text=True, check=True).stdout)
        assert list_owned({uid})
        owner.kill()
    with Sandbox((), parent=folder):
        wait_until(lambda: not list_owned({uid}))
