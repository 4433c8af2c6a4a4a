"""Tell whether QEMU's user can get at a file, before QEMU fails to."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

#: Of a file or directory with more permissions than its mode shows.
_ACL: Final = "system.posix_acl_access"
_READ: Final = 4
_WRITE: Final = 2
_SEARCH: Final = 1
_LETTERS: Final = {_READ: "read", _WRITE: "written", _SEARCH: "searched"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuUser:
    """Whom QEMU runs as."""

    #: None = as this process, which then can be asked instead of computed.
    uid: int | None
    groups: frozenset[int] = frozenset()

    @classmethod
    def of(cls, ids: tuple[int, int] | None) -> Self:
        """Return the user of a user id and group id, with its other groups; None = this process."""
        if ids is None:
            return cls(uid=None)
        uid, gid = ids
        try:
            groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            groups = [gid]
        return cls(uid=uid, groups=frozenset(groups))

    def __str__(self) -> str:
        return "this user" if self.uid is None else f"QEMU's user (uid {self.uid})"

    def may(self, path: Path, wanted: int) -> bool:
        """Tell whether the user may do one thing with a file or directory; True where only QEMU can tell.

        Raises:
            OSError: it is not there, or may not be looked at.
        """
        if self.uid is None:
            path.stat()
            return os.access(path, wanted, effective_ids=True)
        state = path.stat()
        # QEMU as root has lost its privileges or not, by libvirt's configuration; an ACL may grant more.
        if self.uid == 0 or _has_acl(path):
            return True
        shift = 6 if state.st_uid == self.uid else 3 if state.st_gid in self.groups else 0
        return bool(stat.S_IMODE(state.st_mode) >> shift & wanted)


def find_barrier(path: Path, user: QemuUser) -> str:
    """Return which directory on the way to a file keeps the user out, and how; "" where none does."""
    for directory in _directories(path):
        try:
            if not stat.S_ISDIR(directory.stat().st_mode):
                return f"{directory} is no directory"
            if not user.may(directory, _SEARCH):
                return f"{directory} may not be {_LETTERS[_SEARCH]} by {user}"
        except FileNotFoundError:
            return f"{directory} does not exist"
        except OSError as error:
            return f"{directory}: {error.strerror}"
    return ""


def find_refusal(path: Path, user: QemuUser, *, is_readonly: bool) -> str:
    """Return what the user may not do with a file that it has to; "" where it may.

    Raises:
        OSError: the file is not there, or may not be looked at.
    """
    for wanted in (_READ,) if is_readonly else (_READ, _WRITE):
        if not user.may(path, wanted):
            return f"{path} may not be {_LETTERS[wanted]} by {user}"
    return ""


def _directories(path: Path) -> Iterator[Path]:
    """Yield the directories on the way, from the root on; of a link also those on the way to its target."""
    seen = set()
    for way in (path, Path(os.path.realpath(path))):
        for directory in reversed(way.parents):
            if directory not in seen:
                seen.add(directory)
                yield directory


def _has_acl(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, _ACL))
    except OSError:
        return False
