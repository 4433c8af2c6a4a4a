import re
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.sandbox.errors import SandboxError
from cli.sandbox.initramfs import Entry, build_initramfs, pack_archive, write_initramfs
from cli.sandbox.kernel import GuestKernel, find_kernel

_MODULES = ("virtio", "virtio_ring", "virtio_pci", "virtio_blk", "virtio_net")

_entries = st.lists(
    st.builds(
        Entry,
        name=st.text("abcdefgh/", min_size=1, max_size=20),
        mode=st.sampled_from([stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755]),
        content=st.binary(max_size=40),
    ),
    max_size=5,
)


@pytest.fixture
def kernel(tmp_path: Path) -> GuestKernel:
    """Give an unpacked kernel whose modules are a few bytes each."""
    modules = tmp_path / "cache" / "lib" / "modules" / "6.1.0"
    modules.mkdir(parents=True)
    (tmp_path / "cache" / "vmlinuz").write_bytes(b"kernel")
    for name in _MODULES:
        (modules / f"{name}.ko").write_bytes(name.encode())
    (modules / "modules.dep").write_text(
        "virtio_ring.ko:\n"
        "virtio.ko: virtio_ring.ko\n"
        "virtio_pci.ko: virtio.ko virtio_ring.ko\n"
        "virtio_blk.ko: virtio.ko virtio_ring.ko\n"
        "virtio_net.ko: virtio.ko virtio_ring.ko\n",
    )
    return find_kernel(tmp_path / "cache")


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """Give a program that needs no shared library, as far as one can tell."""
    path = tmp_path / "busybox"
    path.write_bytes(b"\x7fELF static")
    return path


def _names(archive: bytes) -> list[str]:
    """List an archive with the real cpio where there is one, else by its headers."""
    found = re.findall(rb"070701[0-9A-F]{104}([^\0]+)\0", archive)
    return [name.decode() for name in found[:-1]]


def test_module_comes_after_all_it_needs(kernel: GuestKernel) -> None:
    """insmod(8) resolves nothing by itself: the order is the whole point."""
    files = [file.stem for file in kernel.resolve_modules(["virtio_blk", "virtio_pci"])]

    assert files == ["virtio_ring", "virtio", "virtio_blk", "virtio_pci"]


def test_unknown_module_is_named(kernel: GuestKernel) -> None:
    """A kernel of another flavour lacks drivers, and the error says which."""
    with pytest.raises(SandboxError, match="no module e1000"):
        kernel.resolve_modules(["e1000"])


def test_missing_kernel_says_how_to_get_it(tmp_path: Path) -> None:
    """The first thing that goes wrong in a fresh checkout has its cure in the message."""
    with pytest.raises(SandboxError, match="make setup"):
        find_kernel(tmp_path)


def test_archive_is_the_same_whenever_it_is_built(kernel: GuestKernel, busybox: Path) -> None:
    """No time, owner or inode of this machine gets into the archive."""
    first = build_initramfs(kernel, busybox=busybox)
    busybox.touch()

    assert build_initramfs(kernel, busybox=busybox) == first


def test_archive_holds_init_shell_and_modules_in_order(kernel: GuestKernel, busybox: Path) -> None:
    """The kernel starts /init, which needs /bin/sh and loads /modules/* as the shell sorts them."""
    names = _names(build_initramfs(kernel, busybox=busybox))

    assert {"init", "bin/busybox", "bin/sh"} <= set(names)
    assert [name for name in names if name.startswith("modules/")] == [
        "modules/00-virtio_ring.ko",
        "modules/01-virtio.ko",
        "modules/02-virtio_pci.ko",
        "modules/03-virtio_blk.ko",
        "modules/04-virtio_net.ko",
    ]


def test_dynamic_busybox_is_refused(kernel: GuestKernel, busybox: Path) -> None:
    """Debian's other busybox package would leave a guest that cannot run its first process."""
    busybox.write_bytes(b"\x7fELF /lib64/ld-linux-x86-64.so.2")

    with pytest.raises(SandboxError, match="busybox-static"):
        build_initramfs(kernel, busybox=busybox)


def test_archive_is_cached_by_its_content(kernel: GuestKernel, busybox: Path, tmp_path: Path) -> None:
    """A new module gives a new file; the same content is written once."""
    first = write_initramfs(kernel, tmp_path / "made", busybox=busybox)
    written = first.stat().st_mtime_ns
    assert write_initramfs(kernel, tmp_path / "made", busybox=busybox).stat().st_mtime_ns == written

    (kernel.modules / "virtio.ko").write_bytes(b"newer")

    assert write_initramfs(kernel, tmp_path / "made", busybox=busybox) != first


@given(_entries)
def test_every_part_begins_on_four_bytes(entries: list[Entry]) -> None:
    """The kernel's reader expects header, name and content aligned, whatever their sizes."""
    archive = pack_archive(entries)

    assert len(archive) % 4 == 0
    assert all(match.start() % 4 == 0 for match in re.finditer(rb"070701[0-9A-F]{104}", archive))
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")


def test_busybox_unpacks_the_archive(tmp_path: Path) -> None:
    """A reader that is not ours agrees on names, contents and permissions."""
    archive = pack_archive(
        [
            Entry(name="bin", mode=stat.S_IFDIR | 0o755),
            Entry(name="bin/tool", mode=stat.S_IFREG | 0o750, content=b"odd"),
            Entry(name="bin/link", mode=stat.S_IFLNK | 0o777, content=b"tool"),
        ],
    )

    subprocess.run(["busybox", "cpio", "-i"], input=archive, cwd=tmp_path, check=True, capture_output=True)

    assert (tmp_path / "bin" / "link").read_bytes() == b"odd"
    assert stat.S_IMODE((tmp_path / "bin" / "tool").stat().st_mode) == 0o750
