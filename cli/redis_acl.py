"""fleetsave config redis-acl: who may do what in Redis, as an ACL file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from cli.command import Command
from cli.options import check_name
from cli.output import print_json
from engine.errors import StorageError
from tasks.errors import UsageError

_SUFFIX: Final = ".password"
_PASSWORD_SIZE_MAX: Final = 4096


@click.command(
    cls=Command,
    examples=(
        "fleetsave config redis-acl --host alpha --host beta --control --passwords ./pw --out ./users.acl",
        "fleetsave config redis-acl --host alpha --control --admin --passwords ./pw     on stdout",
    ),
)
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="User host-NAME, for a host's worker.")
@click.option("--control", "has_control", is_flag=True, help="User control, for the control host.")
@click.option(
    "--operator", "operators", multiple=True, metavar="NAME", help="User operator-NAME, who may submit only."
)
@click.option("--admin", "has_admin", is_flag=True, help="User admin, who may do everything.")
@click.option(
    "--passwords",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="USER.password files: those that are there are read, those that are missing are made.",
)
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path), help="Write here; default: standard output."
)
def redis_acl(
    *,
    hosts: Sequence[str],
    has_control: bool,
    operators: Sequence[str],
    has_admin: bool,
    passwords: Path,
    out: Path | None,
    as_json: bool,
) -> int:
    """Make an ACL file for Redis 7 in which everybody may do no more than their part of the work.

    Passwords are never shown: each is in a file of mode 0600, to be carried to where it is used; the
    ACL file holds only their hashes. The user default is switched off.
    """
    from tasks import redis_acl as acl

    for name in (*hosts, *operators):
        check_name(name)
    users = [acl.host_user(name) for name in dict.fromkeys(hosts)]
    users += [acl.control_user()] if has_control else []
    users += [acl.operator_user(name) for name in dict.fromkeys(operators)]
    users += [acl.admin_user()] if has_admin else []
    if not users:
        raise UsageError("redis-acl", "no user is named", "--host, --control, --operator or --admin")
    files = {user.name: passwords / (user.name + _SUFFIX) for user in users}
    _make_folder(passwords)
    text = acl.format_acl(users, {name: _provide_password(file) for name, file in files.items()})
    if out is not None:
        _write_out(out, text)
    if as_json:
        print_json({"acl": text, "passwords": {name: str(file) for name, file in files.items()}})
    elif out is None:
        click.echo(text, nl=False)
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _provide_password(file: Path) -> str:
    """Return the password in the file; a file that is missing is made with a new one."""
    from tasks.redis_acl import new_password

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read_password(file)
    except OSError as error:
        raise _unwritable(file, error) from error
    password = new_password()
    with os.fdopen(descriptor, "w") as opened:
        opened.write(password + "\n")
        opened.flush()
        os.fsync(descriptor)
    return password


def _read_password(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            text = opened.read(_PASSWORD_SIZE_MAX).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(str(file), str(error), "a readable file that holds the password") from error
    if not text or not text.isprintable():
        raise StorageError(str(file), "it holds no password", "one line")
    return text


def _write_out(file: Path, text: str) -> None:
    """Put the new file in the place of the old one at once."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(descriptor)
        fresh.replace(file)
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(str(path), error.strerror or str(error), "a place this user may write")
