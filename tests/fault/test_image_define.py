"""Break a definition at every system call and kill it at every step: one of two images is there, whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from engine.define import DEFINE_STEPS, image_define
from engine.errors import DomainBusyError, NoSpaceError, StorageError
from engine.examine import image_dumpxml
from engine.hypervisor.port import Hypervisor
from engine.recover import recover
from engine.steps import Step
from engine.store.places import STAGING_NAME, next_manifest_of
from engine.verify import image_verify
from tests.data.image_files import LARGE_XML, OTHER_XML, UUID, XML, memory_stream, write_image, write_point
from tests.fault.world import refusal

#: Through these a definition acts on files; each call of each is a place where it can fail.
CALLS: Final = (
    "open", "pwrite", "preadv", "ftruncate", "fsync", "rename", "mkdir", "fchmod", "fstat", "lseek", "unlink",
    "rmdir", "stat",
)  # fmt: skip
#: More calls than a definition makes.
CALLS_MAX: Final = 200
#: From here on the image is the new one.
DONE: Final = frozenset({Step.PUBLISHED, Step.DONE})

KILLED: Final = """
import os, signal, sys
from engine.define import image_define
from engine.observer import SilentObserver

class Deadly(SilentObserver):
    def step(self, step):
        if step == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)

image_define(sys.argv[1], sys.stdin.read(), observer=Deadly())
"""


class Failing:
    """The os module's functions, of which the nth call on a file below a directory fails."""

    def __init__(self, root: Path, nth: int, error: OSError) -> None:
        self.failed: str | None = None
        self._root = root
        self._left = nth
        self._error = error

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the program and the os module."""
        for name in CALLS:
            patch.setattr(os, name, self._failing(name, getattr(os, name)))

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **options: Any) -> Any:
            if self._concerns(target, options.get("dir_fd")):
                self._left -= 1
                if self._left == -1:
                    self.failed = f"{name} {target}"
                    raise self._error
            return real(target, *arguments, **options)

        return call

    def _concerns(self, target: Any, dir_fd: int | None) -> bool:
        if dir_fd is not None:
            target = dir_fd
        if isinstance(target, int):
            target = Path(f"/proc/self/fd/{target}").readlink()
        return Path(os.fsdecode(target)).is_relative_to(self._root)


def lay_image(folder: Path, kind: str) -> Path:
    """Write an image with a manifest, as a file or as a restore point; return what a user names."""
    if kind == "file":
        write_image(folder / "a.save")
        return folder / "a.save"
    (folder / STAGING_NAME).mkdir()
    point = folder / UUID / "20260101T000000Z-job-1"
    write_point(point)
    return point


def assert_whole(path: Path, *, xml: str) -> None:
    """See that a reader finds the image with this XML, and a manifest that fits."""
    assert image_dumpxml(path) == xml
    assert image_verify(path).is_compared


@pytest.mark.parametrize("kind", ["file", "point"])
@pytest.mark.parametrize("xml", [OTHER_XML, LARGE_XML], ids=["in-place", "moved"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_every_system_call_may_fail(tmp_path: Path, kind: str, xml: str, code: int) -> None:
    """Whichever fails: the old image and an error, or the new one; both whole, and the next try works.

    An error that comes after the image was replaced says so.
    """
    outcomes: list[str] = []
    for nth in range(CALLS_MAX):
        folder = tmp_path / str(nth)
        folder.mkdir()
        path = lay_image(folder, kind)
        failing = Failing(folder, nth, refusal(code))
        error = None
        with pytest.MonkeyPatch.context() as patch:
            failing.install(patch)
            try:
                image_define(path, xml)
            except (StorageError, NoSpaceError) as caught:
                error = caught
        if failing.failed is None:
            break
        found = image_dumpxml(path)
        assert found in {XML, xml}, failing.failed
        assert image_verify(path).is_compared, failing.failed
        if error is None:
            assert found == xml, failing.failed
        else:
            assert ("the new XML is in place" in str(error)) is (found == xml), failing.failed
        outcomes.append("old" if found == XML else "new")
        image_define(path, xml)
        assert_whole(path, xml=xml)
        assert not [each for each in folder.rglob("*") if "define" in each.name or ".next" in each.name]
    assert len(outcomes) < CALLS_MAX, "the list of calls is longer than the test"
    assert len(outcomes) > 25
    assert {"old", "new"} == set(outcomes)


@pytest.mark.parametrize("kind", ["file", "point"])
@pytest.mark.parametrize("step", DEFINE_STEPS)
def test_kill_at_every_step(tmp_path: Path, step: Step, kind: str) -> None:
    """SIGKILL leaves the old image or the new one; recovery and the next definition remove all else."""
    path = lay_image(tmp_path, kind)

    done = subprocess.run(
        [sys.executable, "-c", KILLED, path, step], input=LARGE_XML, text=True, timeout=60, check=False
    )

    assert done.returncode == -signal.SIGKILL
    expected = LARGE_XML if step in DONE else XML
    assert_whole(path, xml=expected)
    assert list(tmp_path.rglob("*define*")), "the staging directory is left"
    recover(tmp_path / "run", [tmp_path], _no_hypervisor)
    assert not list(tmp_path.rglob("*define*"))
    assert_whole(path, xml=expected)
    image_define(path, OTHER_XML)
    assert_whole(path, xml=OTHER_XML)
    assert not list(tmp_path.rglob("*.next"))
    copy = path / "domain.xml"
    assert kind == "file" or copy.read_text() == OTHER_XML


def test_every_step_is_killed_at() -> None:
    """A step that is added to the list is tested: the list is what the tests above walk."""
    assert {Step.PREFLIGHT, Step.PREPARED, Step.PUBLISHED, Step.DONE} <= set(DEFINE_STEPS)
    assert set(DEFINE_STEPS) > DONE


def test_the_dead_are_told_from_the_living(tmp_path: Path) -> None:
    """A definition that stands still is not disturbed by recovery, nor by another definition."""
    path = lay_image(tmp_path, "file")
    code = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print(flush=True); input()").replace(
        "sys.stdin.read()", "sys.argv[3]"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path, Step.PREPARED, OTHER_XML],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        recover(tmp_path / "run", [tmp_path], _no_hypervisor)
        with pytest.raises(DomainBusyError):
            image_define(path, LARGE_XML)
        assert next_manifest_of(path).exists()
        assert_whole(path, xml=XML)
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert_whole(path, xml=OTHER_XML)


def test_memory_larger_than_a_buffer_survives_a_full_disk(tmp_path: Path) -> None:
    """The disk is full in the middle of the copy: the error says so, the old image is as it was."""
    path = tmp_path / "a.save"
    before = write_image(path, stream=memory_stream(5_000_001))
    failing = Failing(tmp_path, 0, refusal(errno.ENOSPC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", failing._failing("pwrite", os.pwrite))
        with pytest.raises(NoSpaceError):
            image_define(path, LARGE_XML)

    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def _no_hypervisor() -> Hypervisor:
    raise AssertionError("an image that is replaced is no business of the hypervisor")
