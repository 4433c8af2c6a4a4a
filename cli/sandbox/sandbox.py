"""A whole fleet on one machine: users with libvirt session daemons as hosts; Redis and PostgreSQL servers."""

import atexit
import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cli.sandbox.account import Account
from cli.sandbox.broker import RedisServer
from cli.sandbox.database import PostgresServer
from cli.sandbox.errors import SandboxError
from cli.sandbox.host import BootFiles, Host
from cli.sandbox.initramfs import write_initramfs
from cli.sandbox.kernel import find_kernel
from cli.sandbox.lease import Lease, sweep
from cli.sandbox.project import GUEST_CACHE, Project, open_project
from cli.sandbox.reaper import Reaper
from cli.sandbox.users import User, add_user

#: Disk-backed on every Debian, unlike /tmp: files below it take O_DIRECT.
PARENT: Final = Path("/var/tmp")  # noqa: S108 - each sandbox makes a folder of its own there

#: Longest name of a host, so that names of Unix sockets below its folder stay under 108 bytes.
_NAME_LIMIT: Final = 12
_BROKER: Final = "broker"
_DATABASE: Final = "database"


class Sandbox:
    """Hosts, guests and brokers that exist as long as this object; use it in a `with` statement.

    Leftovers of sandboxes whose owners were killed are taken down first.

    Raises:
        SandboxError: not root, no guest kernel, or a part of the machine refused; nothing is left behind.
    """

    #: Folder of everything that belongs to the sandbox.
    base: Path
    #: The hosts by name.
    hosts: dict[str, Host]

    def __init__(self, host_names: Sequence[str] = ("alpha", "beta"), *, parent: Path = PARENT) -> None:
        _refuse_names(host_names)
        if os.geteuid() != 0:
            raise SandboxError("a sandbox makes users and becomes them: run it as root")
        sweep(parent)
        self._lease: Lease | None = Lease.take(parent)
        self.base = self._lease.base
        self._reaper: Reaper | None = None
        self.hosts = {}
        self._accounts: list[Account] = []
        self._broker: Account | None = None
        self._brokers = 0
        self._database: Account | None = None
        self._databases = 0
        atexit.register(self.close)
        try:
            self._reaper = Reaper()
            self._add_hosts(host_names)
        except BaseException as error:
            try:
                self.close()
            except SandboxError as left:
                error.add_note(str(left))
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_redis(self, configuration: Mapping[str, str] | None = None) -> RedisServer:
        """Start a Redis server of its own; it ends with the sandbox at the latest.

        Args:
            configuration: directives of redis.conf on top of ours.

        Raises:
            SandboxError: it did not start.
        """
        if self._broker is None:
            self._broker = self._add_account(_BROKER)
        self._brokers += 1
        return RedisServer(self._broker, self._broker.home / f"redis-{self._brokers}", configuration)

    @contextlib.contextmanager
    def redis(self, configuration: Mapping[str, str] | None = None) -> Iterator[RedisServer]:
        """Run a Redis server as long as the block."""
        with self.start_redis(configuration) as server:
            yield server

    def start_postgres(self) -> PostgresServer:
        """Start a PostgreSQL server with a cluster of its own; it ends with the sandbox at the latest.

        Raises:
            SandboxError: it is not installed, or did not start.
        """
        if self._database is None:
            self._database = self._add_account(_DATABASE)
        self._databases += 1
        return PostgresServer(self._database, self._database.home / f"postgres-{self._databases}")

    @contextlib.contextmanager
    def postgres(self) -> Iterator[PostgresServer]:
        """Run a PostgreSQL server as long as the block."""
        with self.start_postgres() as server:
            yield server

    def close(self) -> None:
        """End all processes, delete all users and files; a second call does nothing.

        Raises:
            SandboxError: something is left, after everything else was taken down; the text names it.
        """
        lease, self._lease = self._lease, None
        if lease is None:
            return
        atexit.unregister(self.close)
        try:
            lease.release()
        finally:
            for account in self._accounts:
                account.reap()
            if self._reaper is not None:
                self._reaper.stop()

    def _add_hosts(self, names: Sequence[str]) -> None:
        if not names:
            return
        boot = self._add_boot_files()
        accounts = {name: self._add_account(name) for name in names}
        project = open_project(next(iter(accounts.values())), self.base / "python")
        for name, account in accounts.items():
            self.hosts[name] = _open_host(name, account, boot, project)

    def _add_boot_files(self) -> BootFiles:
        """Copy kernel and root file system to where hosts can read them; make a folder for serial ports."""
        kernel = find_kernel(GUEST_CACHE)
        boot, serial = self.base / "boot", self.base / "serial"
        for folder, mode in ((boot, 0o755), (serial, 0o1777)):
            folder.mkdir()
            folder.chmod(mode)
        files = BootFiles(kernel=boot / "vmlinuz", initramfs=boot / "initramfs", serial=serial)
        shutil.copyfile(kernel.image, files.kernel)
        shutil.copyfile(write_initramfs(kernel, GUEST_CACHE), files.initramfs)
        for file in (files.kernel, files.initramfs):
            file.chmod(0o644)
        return files

    def _add_account(self, name: str) -> Account:
        assert self._lease is not None, "the sandbox is closed"
        folder = self.base / name
        user: User = add_user(f"{self._lease.user_prefix}{name}", folder / "home")
        account = Account(user=user, folder=folder, import_path=None)
        account.make_folders()
        self._accounts.append(account)
        return account


def _open_host(name: str, account: Account, boot: BootFiles, project: Project) -> Host:
    account = replace(account, import_path=project.root)
    host = Host(name=name, account=account, boot=boot, python=project.python)
    host.configure()
    return host


def _refuse_names(names: Sequence[str]) -> None:
    for name in names:
        if not (name.isascii() and name.isalnum() and name.islower() and len(name) <= _NAME_LIMIT):
            raise SandboxError(f"host name {name!r}: want up to {_NAME_LIMIT} lower-case letters and digits")
        if name in {_BROKER, _DATABASE, "boot", "serial", "python"}:
            raise SandboxError(f"host name {name!r} is taken by the sandbox itself")
    if len(set(names)) != len(names):
        raise SandboxError(f"host names {list(names)} are not all different")
