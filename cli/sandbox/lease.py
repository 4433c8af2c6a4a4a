"""Who owns a sandbox, written into its folder's name, so that the leftovers of a killed owner can be told.

The name is made by one mkdir(2), so there is never a sandbox without an owner; the users of a sandbox carry
its token in their names, so they too can be found without a record.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cli.sandbox.errors import SandboxError
from cli.sandbox.processes import end_owned, is_alive, read_start_ticks
from cli.sandbox.users import delete_user, list_users

#: Begins the names of all folders and users of sandboxes.
PREFIX: Final = "fsbx"

_NAME: Final = re.compile(rf"{PREFIX}-([0-9a-f]+)-([0-9a-f]+)-([0-9a-f]{{6}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One sandbox and the process it belongs to."""

    #: Folder that holds the sandbox's folder.
    parent: Path
    owner_pid: int
    #: When the owner started, clock ticks since boot: tells it from a later process with its id.
    owner_start_ticks: int
    #: Six hexadecimal digits, different for each sandbox.
    token: str

    @classmethod
    def take(cls, parent: Path) -> Self:
        """Make the folder of a new sandbox of this process, 0755."""
        start_ticks = read_start_ticks(os.getpid())
        assert start_ticks is not None
        lease = cls(
            parent=parent,
            owner_pid=os.getpid(),
            owner_start_ticks=start_ticks,
            token=secrets.token_hex(3),
        )
        lease.base.mkdir()
        # The umask of a careful administrator would keep the hosts' users out.
        lease.base.chmod(0o755)
        return lease

    @classmethod
    def parse(cls, base: Path) -> Self | None:
        """Return the lease that a folder's name states, or None for a folder that is no sandbox."""
        match = _NAME.fullmatch(base.name)
        if match is None:
            return None
        return cls(
            parent=base.parent,
            owner_pid=int(match[1], 16),
            owner_start_ticks=int(match[2], 16),
            token=match[3],
        )

    @property
    def base(self) -> Path:
        """Folder of the sandbox."""
        return self.parent / f"{PREFIX}-{self.owner_pid:x}-{self.owner_start_ticks:x}-{self.token}"

    @property
    def user_prefix(self) -> str:
        """Begins the names of all users of the sandbox."""
        return f"{PREFIX}{self.token}-"

    def is_stale(self) -> bool:
        """Tell whether the owner is gone."""
        return not is_alive(self.owner_pid, self.owner_start_ticks)

    def release(self) -> None:
        """End all processes of the sandbox, delete its users and its folder; no failed step stops the others.

        Raises:
            SandboxError: something is left; the text names it.
        """
        failures: list[str] = []
        users = list_users(self.user_prefix)
        try:
            end_owned({user.uid for user in users})
        except SandboxError as error:
            failures.append(str(error))
        for user in users:
            try:
                delete_user(user.name)
            except SandboxError as error:
                failures.append(str(error))
        try:
            shutil.rmtree(self.base)
        except FileNotFoundError:
            pass  # Gone is what was wanted.
        except OSError as error:
            failures.append(str(error))
        if failures:
            raise SandboxError(f"sandbox {self.base} is not down: {'; '.join(failures)}")


def sweep(parent: Path) -> list[Path]:
    """Take down the sandboxes whose owners are gone; return their folders.

    Raises:
        SandboxError: something of them is left; the others have been taken down.
    """
    swept: list[Path] = []
    failures: list[str] = []
    with _lock(parent):
        for folder in sorted(parent.glob(f"{PREFIX}-*")):
            lease = Lease.parse(folder)
            if lease is None or not lease.is_stale():
                continue
            try:
                lease.release()
            except SandboxError as error:
                failures.append(str(error))
            swept.append(lease.base)
    if failures:
        raise SandboxError("; ".join(failures))
    return swept


@contextlib.contextmanager
def _lock(parent: Path) -> Iterator[None]:
    """Let one sweep run at a time.

    A second one that looked up the users of a stale sandbox just before the first deletes them would go on to
    end the processes of whoever is given their ids next.
    """
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
