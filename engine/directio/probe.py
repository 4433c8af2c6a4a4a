"""Find out, before a guest is touched, what a directory can take."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Final

from engine.directio.buffers import BufferRing
from engine.directio.target import open_direct, storage_error
from engine.flags import BypassPolicy
from engine.units import MiB, round_up

#: Beginning of the name that a trial file has for an instant.
PROBE_PREFIX: Final = ".fleetsave-probe-"
#: Bytes written on trial: enough to be more than one request, over in milliseconds.
TRIAL_SIZE: Final = 4 * MiB


def probe_direct_io(directory: Path, policy: BypassPolicy) -> float:
    """Write a little past the page cache into a file that goes away at once; return bytes per second.

    Raises:
        BypassError: `require`, and it did not work or left pages in the cache.
        StorageError, NoSpaceError: nothing can be written there.
    """
    path = directory / f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    try:
        file = open_direct(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, policy)
        try:
            # Now, not at the end: whoever is killed while it writes leaves nothing behind.
            path.unlink()
            size = round_up(TRIAL_SIZE, file.block_size)
            block = BufferRing(count=1, size=size).take()
            assert block is not None
            began = time.monotonic()
            file.write_at(block, 0)
            seconds = time.monotonic() - began
            file.sync()
            file.check_bypassed()
        finally:
            file.close()
    finally:
        path.unlink(missing_ok=True)
    return size / max(seconds, 1e-9)


def free_bytes(directory: Path) -> int:
    """Return the bytes an ordinary process may still write below the directory.

    Raises:
        StorageError: the directory cannot be looked at.
    """
    try:
        found = os.statvfs(directory)
    except OSError as error:
        raise storage_error(str(directory), error, "asking for free space") from error
    return found.f_bavail * found.f_frsize
