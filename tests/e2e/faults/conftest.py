"""Give the tests of faults one guest, an older image of it, and a folder."""

import os
import shutil
from collections.abc import Iterator
from uuid import uuid4

import pytest

from cli.sandbox import GuestSpec, Sandbox
from tests.e2e.faults.scene import Scene, build_shim


@pytest.fixture(scope="package")
def stage(sandbox: Sandbox) -> Iterator[Scene]:
    """Give one guest, its good image, and a folder, to all tests that set it up for themselves."""
    host = sandbox.hosts["alpha"]
    guest = host.define(GuestSpec(name=f"steady-{uuid4().hex[:8]}", fill_mib=8))
    guest.start()
    guest.wait_counting()
    base = host.store.parent / f"faults-{uuid4().hex[:8]}"
    folder, good = base / "new", base / "good"
    for path in (base, folder, good):
        path.mkdir(mode=0o700)
        os.chown(path, host.uid, host.uid)
    scene = Scene(guest=guest, folder=folder, good=good / "good.save", shim=build_shim(base))
    scene.run("checkpoint", to=str(scene.good))
    yield scene
    scene.end_engines()
    guest.remove()
    shutil.rmtree(base)
