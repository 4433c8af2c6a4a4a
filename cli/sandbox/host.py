"""A hypervisor host of the test fleet: one unprivileged user with a libvirt session daemon of its own."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.sandbox.account import Account
from cli.sandbox.domain import GuestSpec, format_domain
from cli.sandbox.guest import Guest

#: The user's own daemon; the client library starts it when the first client connects.
URI: Final = "qemu:///session"

# With "file", QEMU itself appends to the serial file; libvirt's own log daemon would rotate it at 2 MiB.
_QEMU_CONFIGURATION: Final = 'stdio_handler = "file"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What every test guest boots from, readable by all hosts."""

    kernel: Path
    initramfs: Path
    #: Folder for what guests print; shared, so that a guest may be restored on another host.
    serial: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One hypervisor host; its processes and files go away with the sandbox."""

    name: str
    account: Account
    boot: BootFiles
    #: Interpreter and options that the user can run the project with.
    python: list[str]
    #: Address of the host's libvirt for clients of its user.
    uri: str = URI

    @property
    def user(self) -> str:
        """Name of the user that plays this host."""
        return self.account.user.name

    @property
    def uid(self) -> int:
        """Id of that user."""
        return self.account.user.uid

    @property
    def home(self) -> Path:
        """Home of the user."""
        return self.account.home

    @property
    def store(self) -> Path:
        """Folder for restore points, on a disk that takes O_DIRECT."""
        return self.account.store

    @property
    def logs(self) -> Path:
        """Folder for logs of long-running programs."""
        return self.account.logs

    @property
    def runtime_dir(self) -> Path:
        """XDG_RUNTIME_DIR of the user."""
        return self.account.runtime_dir

    @property
    def environment(self) -> dict[str, str]:
        """All environment variables of the host's programs."""
        return self.account.environment

    def configure(self) -> None:
        """Write the configuration of the host's libvirt; call it once, before the first client."""
        folder = self.account.config_dir / "libvirt"
        self.run(["mkdir", "-p", folder])
        (folder / "qemu.conf").write_text(_QEMU_CONFIGURATION)

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
        """Run a program as the host's user to its end; see Account.run."""
        return self.account.run(argv, input=input, timeout=timeout, check=check, cwd=cwd, env=env)

    def popen(self, argv: Sequence[str | Path], **options: object) -> subprocess.Popen[str]:
        """Start a program as the host's user; it ends with the sandbox at the latest; see Account.popen."""
        return self.account.popen(argv, **options)  # type: ignore[arg-type]

    def fleetsave(
        self,
        *arguments: str | Path,
        timeout: float = 120,
        check: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line of this checkout as the host's user."""
        return self.run([*self.python, "-m", "cli.main", *arguments], timeout=timeout, check=check, env=env)

    def virsh(self, *arguments: str | Path, timeout: float = 60) -> str:
        """Run virsh on the host's own libvirt and return what it printed.

        Raises:
            SandboxError: it failed; the text holds libvirt's message.
        """
        return self.run(["virsh", "-q", "-c", URI, *arguments], timeout=timeout).stdout

    def domain_names(self) -> list[str]:
        """Return the names of all domains of the host, running or not."""
        return self.virsh("list", "--all", "--name").split()

    def guest(self, spec: GuestSpec) -> Guest:
        """Return a handle on a domain that is on this host or will be, such as one restored from another."""
        serial = self.boot.serial / f"{spec.uuid}.log"
        # Made here, by root, and writable for every host: the first to write it would otherwise own it.
        serial.touch()
        serial.chmod(0o666)
        xml = format_domain(spec, kernel=self.boot.kernel, initramfs=self.boot.initramfs, serial=serial)
        return Guest(host=self, spec=spec, xml=xml, serial=serial)

    def define(self, spec: GuestSpec) -> Guest:
        """Define the domain (unless it is transient: starting it does that) and return a handle on it.

        Raises:
            SandboxError: libvirt refused.
        """
        guest = self.guest(spec)
        if not spec.transient:
            self.virsh("define", guest.write_xml())
        return guest
