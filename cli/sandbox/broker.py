"""A private Redis server on a free port of the loopback interface."""

import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cli.sandbox.account import Account
from cli.sandbox.errors import SandboxError
from cli.sandbox.processes import POLL_SECONDS

_LOOPBACK: Final = "127.0.0.1"
_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 10.0
#: Another program may take the port between the choice and the start.
_PORT_ATTEMPTS: Final = 5


class RedisServer:
    """One Redis server with its own folder; can be stopped, killed and started again on the same data."""

    def __init__(
        self, account: Account, folder: Path, configuration: Mapping[str, str] | None = None
    ) -> None:
        self.folder: Final = folder
        #: Port on 127.0.0.1; the same for the server's whole life.
        self.port = 0
        self._account: Final = account
        self._configuration: Final = dict(configuration or {})
        self._server: subprocess.Popen[str] | None = None
        account.run(["mkdir", "-p", folder])
        # Without users of its own in it, everybody may do everything, as without the file.
        account.run(["touch", self._users])
        for _ in range(_PORT_ATTEMPTS):
            self.port = _choose_port()
            if self._start():
                return
        raise SandboxError(f"Redis did not start, see {self.log}: {self._last_words()}")

    @property
    def url(self) -> str:
        """Address for clients and for Celery."""
        return f"redis://{_LOOPBACK}:{self.port}/0"

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self.folder / "redis.log"

    @property
    def _users(self) -> Path:
        return self.folder / "users.acl"

    def add_users(self, lines: str) -> None:
        """Let the users of these lines of an ACL file in, or change them; others stay. Kept over restarts.

        Raises:
            SandboxError: Redis does not take the lines; the text says why.
        """
        users = {line.split()[1]: line for line in (self._users.read_text() + lines).splitlines()}
        self._account.run(["tee", self._users], input="\n".join(users.values()) + "\n")
        with socket.create_connection((_LOOPBACK, self.port), timeout=_START_SECONDS) as connection:
            connection.sendall(b"ACL LOAD\r\n")
            answer = connection.recv(4096)
        if not answer.startswith(b"+OK"):
            raise SandboxError(f"Redis does not take the users: {answer.decode(errors='replace').strip()}")

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs."""
        return None if self._server is None else self._server.pid

    def start(self) -> None:
        """Start the server again with the data it has on disk, and wait until it answers.

        Raises:
            SandboxError: it does not; the text holds its last words.
        """
        if self._server is None and not self._start():
            raise SandboxError(f"Redis did not start on port {self.port} again: {self._last_words()}")

    def stop(self) -> None:
        """End the server in order: everything it acknowledged is on disk; one that is down is no error."""
        self._end(lethal=False)

    def kill(self) -> None:
        """End the server as a crash would: what was not synced in the last second may be lost."""
        self._end(lethal=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> bool:
        options = {
            "bind": _LOOPBACK,
            "port": str(self.port),
            "dir": str(self.folder),
            "logfile": str(self.log),
            "aclfile": str(self._users),
            "appendonly": "yes",
            "maxmemory-policy": "noeviction",
            # No snapshots beside the append-only file: they fork, which a small machine feels.
            "save": "",
            **self._configuration,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._server = self._account.popen(
            ["redis-server", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_SECONDS
        while self._server.poll() is None and time.monotonic() < deadline:
            if _is_answering(self.port):
                return True
            time.sleep(POLL_SECONDS)
        self.kill()
        return False

    def _end(self, *, lethal: bool) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        if lethal:
            server.kill()
        else:
            server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def _last_words(self) -> str:
        return self.log.read_text()[-400:] if self.log.exists() else "it left no log"


def _choose_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_answering(port: int) -> bool:
    """Tell whether the server answers; with a password set, refusing PING is an answer; loading is not."""
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
