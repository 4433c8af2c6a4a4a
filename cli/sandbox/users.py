"""Unprivileged users of this machine that play hypervisor hosts: made, looked up, deleted."""

import pwd
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.sandbox.errors import SandboxError

#: useradd(8) and userdel(8): another program holds the lock on /etc/passwd, or cannot be updated just now.
_LOCKED: Final = frozenset({1, 10})
#: userdel(8): the user is not there.
_NO_SUCH_USER: Final = 6
#: Ids that neither people nor services nor the images of containers are likely to have on this machine.
ID_RANGE: Final = range(40000, 50000)
#: How long to wait for other programs that change /etc/passwd, seconds.
_LOCK_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One unprivileged user as /etc/passwd knows it."""

    name: str
    uid: int
    #: Id of the group of the same name, made and deleted with the user.
    gid: int


def add_user(name: str, home: Path) -> User:
    """Make a system user with a group of its own, no password and no login shell; its home is not made.

    Raises:
        SandboxError: useradd refused; nothing is left behind.
    """
    _run_locked(
        [
            *("useradd", "--system", "--user-group", "--no-create-home", "--no-log-init"),
            *("--home-dir", str(home), "--shell", "/usr/sbin/nologin"),
            *("--key", f"SYS_UID_MIN={ID_RANGE[0]}", "--key", f"SYS_UID_MAX={ID_RANGE[-1]}"),
            *("--key", f"SYS_GID_MIN={ID_RANGE[0]}", "--key", f"SYS_GID_MAX={ID_RANGE[-1]}"),
            name,
        ],
    )
    entry = pwd.getpwnam(name)
    return User(name=name, uid=entry.pw_uid, gid=entry.pw_gid)


def list_users(prefix: str) -> list[User]:
    """Return the users whose names begin with the prefix."""
    assert prefix
    entries = (entry for entry in pwd.getpwall() if entry.pw_name.startswith(prefix))
    return [User(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid) for entry in entries]


def delete_user(name: str) -> None:
    """Delete the user and its group; one that is gone already is no error.

    End its processes first: their user id may be given to the next user.

    Raises:
        SandboxError: userdel refused.
    """
    # By force, or a zombie that process 1 of a container never collects would keep the user.
    _run_locked(["userdel", "--force", name], accepted=_NO_SUCH_USER)


def _run_locked(command: list[str], *, accepted: int = 0) -> None:
    """Run a command that needs the lock on /etc/passwd; wait for it as long as others may need it."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode in {0, accepted}:
            return
        if done.returncode not in _LOCKED or time.monotonic() > deadline:
            raise SandboxError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")
        time.sleep(0.1)
