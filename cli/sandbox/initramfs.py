"""The root file system of test guests: busybox, one script and a few kernel modules, in one cpio archive.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux (the "newc" format, magic 070701).
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.sandbox.errors import SandboxError
from cli.sandbox.kernel import GuestKernel

#: What guests with disks or network cards load; ext4, PCI and the serial port are built into the kernel.
MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_net")

_BUSYBOX: Final = Path("/bin/busybox")
_INIT: Final = Path(__file__).with_name("init.sh")
_ALIGNMENT: Final = 4
_TRAILER: Final = "TRAILER!!!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file, folder or link of an archive."""

    #: Path without a leading slash.
    name: str
    #: Type and permission bits as in st_mode.
    mode: int
    content: bytes = b""


def pack_archive(entries: Iterable[Entry]) -> bytes:
    """Return a cpio archive in the newc format; equal entries give equal bytes, whoever packs them."""
    parts: list[bytes] = []
    for number, entry in enumerate([*entries, Entry(name=_TRAILER, mode=0)], start=1):
        name = entry.name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, file size, device (2), special device (2), name size, check
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        parts += [_pad(header + name), _pad(entry.content)]
    return b"".join(parts)


def build_initramfs(kernel: GuestKernel, *, busybox: Path = _BUSYBOX) -> bytes:
    """Return the archive that test guests boot from.

    Raises:
        SandboxError: busybox is missing or needs shared libraries.
    """
    if not busybox.is_file():
        raise SandboxError(f"no {busybox}: install busybox-static, or run `make setup`")
    if b"/ld-linux" in busybox.read_bytes()[:4096]:
        raise SandboxError(f"{busybox} needs shared libraries: install busybox-static, or run `make setup`")
    modules = kernel.resolve_modules(MODULES)
    return pack_archive(
        [
            *(Entry(name=name, mode=stat.S_IFDIR | 0o755) for name in _FOLDERS),
            _file("init", 0o755, _INIT),
            _file("bin/busybox", 0o755, busybox),
            Entry(name="bin/sh", mode=stat.S_IFLNK | 0o777, content=b"busybox"),
            *(_file(f"modules/{place:02}-{file.name}", 0o644, file) for place, file in enumerate(modules)),
        ],
    )


def write_initramfs(kernel: GuestKernel, cache: Path, *, busybox: Path = _BUSYBOX) -> Path:
    """Return the path of an up-to-date archive in the cache folder; write it if its content has changed.

    Raises:
        SandboxError: busybox is missing or needs shared libraries.
    """
    archive = build_initramfs(kernel, busybox=busybox)
    path = cache / f"initramfs-{hashlib.sha256(archive).hexdigest()[:16]}.cpio"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        # Two sandboxes may start at once: each writes its own file, the last rename wins with equal bytes.
        descriptor, name = tempfile.mkstemp(dir=cache, prefix=path.name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(archive)
        Path(name).replace(path)
    return path


_FOLDERS: Final = ("bin", "dev", "memory", "modules", "proc", "sys")


def _file(name: str, permissions: int, source: Path) -> Entry:
    return Entry(name=name, mode=stat.S_IFREG | permissions, content=source.read_bytes())


def _pad(part: bytes) -> bytes:
    return part + bytes(-len(part) % _ALIGNMENT)
