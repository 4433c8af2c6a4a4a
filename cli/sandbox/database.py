"""A private PostgreSQL server on a Unix socket: a cluster of its own, never the system's.

Source: postgres(1), initdb(1); signals, PostgreSQL documentation chapter "Shutting Down the Server".
"""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from cli.sandbox.account import Account
from cli.sandbox.errors import SandboxError
from cli.sandbox.processes import POLL_SECONDS

#: Debian has the programs of each major version below a folder of its own, none of them on the search path.
_DEBIAN: Final = Path("/usr/lib/postgresql")
#: The cluster's only role.
_ROLE: Final = "fleetsave"
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
#: What a test's database need not have: doors, and data that outlives the machine. The server's own death it
#: outlives: what was committed has been written.
_OPTIONS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
}


class PostgresServer:
    """One PostgreSQL server with its own cluster; can be stopped, killed and started again on the same data.

    Args:
        account: whose programs they are; only it and root reach the socket.
        folder: of cluster, socket and log; made here.

    Raises:
        SandboxError: PostgreSQL is not installed, or did not start.
    """

    def __init__(self, account: Account, folder: Path) -> None:
        self.folder: Final = folder
        self._account: Final = account
        self._programs: Final = _find_programs()
        self._server: subprocess.Popen[str] | None = None
        self._databases = 0
        account.run(["mkdir", "-p", folder])
        how = ("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", f"--username={_ROLE}")
        account.run([self._programs / "initdb", f"--pgdata={self._data}", *how])
        self.start()

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self.folder / "postgres.log"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return None if self._server is None else self._server.pid

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{_ROLE}@/{database}?host={quote(str(self.folder))}"

    def create_database(self) -> str:
        """Make an empty database and return its URL.

        Raises:
            SandboxError: the server refused.
        """
        self._databases += 1
        name = f"catalog_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Run one statement as the cluster's owner."""
        options = (
            f"--host={self.folder}",
            f"--username={_ROLE}",
            "--dbname=postgres",
            "--quiet",
            "--no-psqlrc",
        )
        self._account.run([self._programs / "psql", *options, f"--command={statement}"])

    def start(self) -> None:
        """Start the server on the data it has on disk, and wait until it answers.

        Raises:
            SandboxError: it does not; the text holds its last words.
        """
        if self._server is not None:
            return
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        with self.log.open("a") as log:
            self._server = self._account.popen(
                [self._programs / "postgres", "-D", self._data, "-k", self.folder, *options],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._server.poll() is None and time.monotonic() < deadline:
            if self._is_answering():
                return
            time.sleep(POLL_SECONDS)
        self.kill()
        raise SandboxError(f"PostgreSQL did not start, see {self.log}: {self.log.read_text()[-400:]}")

    def stop(self) -> None:
        """End the server in order, whoever is connected; one that is down is no error."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would: at the next start it recovers from its log."""
        self._end(signal.SIGQUIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _is_answering(self) -> bool:
        command = (self._programs / "pg_isready", f"--host={self.folder}", "--quiet")
        return self._account.run(command, check=False).returncode == 0

    def _end(self, number: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.send_signal(number)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _find_programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs."""
    found = [path.parent for path in _DEBIAN.glob("*/bin/initdb") if re.fullmatch("[0-9]+", path.parts[-3])]
    if found:
        return max(found, key=lambda folder: int(folder.parts[-2]))
    initdb = shutil.which("initdb")
    if initdb is None:
        raise SandboxError(f"no PostgreSQL below {_DEBIAN} nor on the search path: install postgresql")
    return Path(initdb).resolve().parent
