"""Name every step of an operation, in order: fault tests walk these lists."""

from __future__ import annotations

import enum
from typing import Final


class Step(enum.StrEnum):
    """A named instant; what was said to happen before it has happened when it is reported."""

    #: Everything that can be known without touching the guest is known to be right.
    PREFLIGHT = "preflight"
    #: A place to write exists that no reader can mistake for an image.
    STAGING = "staging"
    #: libvirt has been called; from here the guest may be paused at any instant.
    CALL = "call"
    #: libvirt has opened its end of the stream, and the gate stands where it will look next.
    OPENED = "opened"
    #: The first bytes have passed.
    STREAM = "stream"
    #: The stream has ended and every byte of it was written (save) or read (restore).
    DRAINED = "drained"
    #: The memory is on stable storage.
    SYNCED = "synced"
    #: Checksums and residency are as they should be.
    VERIFIED = "verified"
    #: The image in staging is whole, marked complete and durable; its record says so.
    PREPARED = "prepared"
    #: The point of no return begins: libvirt is let go on.
    COMMIT = "commit"
    #: libvirt has returned success.
    COMMITTED = "committed"
    #: The image stands under its final name.
    PUBLISHED = "published"
    #: Nothing of the operation is left but its result.
    DONE = "done"


SAVE_STEPS: Final = tuple(Step)
#: Of a restore, in order: COMMIT lets the held-back last bytes go to QEMU.
RESTORE_STEPS: Final = (
    Step.PREFLIGHT, Step.CALL, Step.OPENED, Step.STREAM, Step.DRAINED, Step.VERIFIED,
    Step.COMMIT, Step.COMMITTED, Step.DONE,
)  # fmt: skip
#: Of what libvirt does by itself (managed save, start).
NATIVE_STEPS: Final = (Step.PREFLIGHT, Step.CALL, Step.COMMIT, Step.COMMITTED, Step.DONE)
