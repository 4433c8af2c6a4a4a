"""Programs run as one unprivileged user, in folders and with an environment of its own."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cli.sandbox.errors import SandboxError
from cli.sandbox.reaper import forget_leader, start_leader
from cli.sandbox.users import User

_SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One user with its folder; everything the user writes stays below it."""

    user: User
    #: Folder of the user, 0700, with `home`, `run`, `cfg`, `logs` and `store` in it.
    folder: Path
    #: Where the user finds the Python packages of the project; None if it runs none of them.
    import_path: Path | None
    #: Programs started with popen and not collected yet.
    started: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    @property
    def home(self) -> Path:
        """Home and first working directory of its programs."""
        return self.folder / "home"

    @property
    def runtime_dir(self) -> Path:
        """XDG_RUNTIME_DIR: the libvirt session daemon's socket is below it."""
        return self.folder / "run"

    @property
    def config_dir(self) -> Path:
        """XDG_CONFIG_HOME: libvirt keeps domain definitions, managed saves and monitor sockets below it."""
        # Three letters: names of Unix sockets end at 107 bytes, and libvirt appends up to 60 of its own.
        return self.folder / "cfg"

    @property
    def logs(self) -> Path:
        """Where long-running programs write what they have to say."""
        return self.folder / "logs"

    @property
    def store(self) -> Path:
        """Where restore points go."""
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        """All environment variables of its programs: nothing of ours reaches them."""
        return {
            "HOME": str(self.home),
            "USER": self.user.name,
            "LOGNAME": self.user.name,
            "PATH": _SEARCH_PATH,
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            "XDG_CONFIG_HOME": str(self.config_dir),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "XDG_DATA_HOME": str(self.home / ".local"),
            "PYTHONPATH": str(self.import_path or ""),
            # The packages belong to root: without this each start would try to write beside them in vain.
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def make_folders(self) -> None:
        """Make the folders, 0700 and owned by the user."""
        for folder in (self.folder, self.home, self.runtime_dir, self.config_dir, self.logs, self.store):
            folder.mkdir(mode=0o700)
            os.chown(folder, self.user.uid, self.user.gid)

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> subprocess.Popen[str]:
        """Start a program as the user, in a session of its own: Ctrl-C at our terminal does not reach it.

        Args:
            argv: program and arguments.
            cwd: working directory; None means the home.
            env: variables on top of the account's own.
            options: more arguments for subprocess.Popen.
        """
        arguments: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "text": True,
            "start_new_session": True,
            **options,
            "cwd": cwd or self.home,
            "env": self.environment | dict(env or {}),
            "user": self.user.uid,
            "group": self.user.gid,
            "extra_groups": (),
        }
        words = [str(word) for word in argv]
        started = start_leader(lambda: subprocess.Popen(words, **arguments))  # type: ignore[call-overload]
        self.started.append(started)
        return started

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        timeout: float = 60,
        check: bool = True,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the user to its end and return what it printed.

        Args:
            argv: program and arguments.
            input: text for its standard input.
            timeout: seconds, after which it is killed.
            check: whether another exit code than 0 is an error.
            cwd: working directory; None means the home.
            env: variables on top of the account's own.

        Raises:
            SandboxError: with `check`, the program failed; the text holds its standard error.
            subprocess.TimeoutExpired: it took too long and was killed.
        """
        source = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(
            argv, cwd=cwd, env=env, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as started:
            try:
                output, errors = started.communicate(input, timeout=timeout)
            except BaseException:
                started.kill()
                raise
        self.started.remove(started)
        forget_leader(started.pid)
        if check and started.returncode:
            raise SandboxError(
                f"{' '.join(map(str, argv))} as {self.user.name} ended with {started.returncode}: "
                f"{errors.strip() or output.strip()}",
            )
        return subprocess.CompletedProcess(started.args, started.returncode, output, errors)

    def reap(self, limit: float = 5.0) -> None:
        """Collect the exit codes of programs that were started and have been ended since; close their pipes.

        Args:
            limit: seconds to wait for each.

        Raises:
            subprocess.TimeoutExpired: one still runs.
        """
        while self.started:
            started = self.started.pop()
            for stream in (started.stdin, started.stdout, started.stderr):
                if stream is not None:
                    stream.close()
            started.wait(limit)
            forget_leader(started.pid)
