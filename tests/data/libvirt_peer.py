"""Stand in for libvirt at the far end of the engine's pipes: touch the path as libvirt does, and no more.

In a thread the functions serve; as a program the file is a process of its own, which
names each moment on standard output and stands still at one of them until standard
input says a line: `libvirt_peer.py save|restore PATH IMAGE [HOLD_AT]`. Its exit status is
0, the errno of what failed, or 255 when it received anything but the image.

Source: libvirt src/qemu/qemu_saveimage.c, qemuSaveImageCreate(), virQEMUSaveDataFinish(),
qemuSaveImageGetMetadata(), qemuSaveImageOpen().
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

HEADER_SIZE: Final = 92
#: Bytes of zeros that libvirt leaves behind the cookie for a longer XML.
PADDING_SIZE: Final = 65536
#: In order; a save, then a restore.
SAVE_MOMENTS: Final = ("opening", "opened", "head", "midstream", "closed", "reopened", "committed")
RESTORE_MOMENTS: Final = ("opening", "opened", "head", "closed", "reopened", "midstream", "received")
WRONG_IMAGE: Final = 255


def make_image(
    xml: str, stream: bytes, *, cookie: str = "<cookie/>", was_running: bool = True, byte_order: str = "<"
) -> bytes:
    """Return a complete save image as libvirt lays it out."""
    text = xml.encode() + b"\0"
    cookie_offset = len(text) if cookie else 0
    blob = text + (cookie.encode() + b"\0" if cookie else b"") + bytes(PADDING_SIZE)
    fields = (2, len(blob), int(was_running), 0, cookie_offset)
    return b"LibvirtQemudSave" + struct.pack(f"{byte_order}5I56x", *fields) + blob + stream


def save_to(path: str, image: bytes, reach: Callable[[str], None]) -> None:
    """Write an image to the path in libvirt's two visits; the guest is gone when this returns.

    Raises:
        OSError: libvirt would have failed here, and let the guest go on.
    """
    reach("opening")
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        reach("opened")
        stream_offset = HEADER_SIZE + struct.unpack_from("<I", image, 20)[0]
        _write(fd, b"LibvirtQemudPart" + image[16:stream_offset])
        reach("head")
        middle = (stream_offset + len(image)) // 2
        _write(fd, image[stream_offset:middle])
        reach("midstream")
        _write(fd, image[middle:])
    finally:
        os.close(fd)
    reach("closed")
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        reach("reopened")
        _write(fd, image[:HEADER_SIZE])
    finally:
        os.close(fd)
    reach("committed")


def restore_from(path: str, reach: Callable[[str], None], received: bytearray) -> None:
    """Read an image from the path in libvirt's two visits, into `received`; return at its end.

    Raises:
        OSError: libvirt would have failed here; EINVAL for a head that is none.
    """
    reach("opening")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        reach("opened")
        _read_head(fd)
        reach("head")
    finally:
        os.close(fd)
    reach("closed")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        reach("reopened")
        received += _read_head(fd)
        is_first = True
        while data := os.read(fd, 1 << 16):
            received += data
            if is_first:
                reach("midstream")
                is_first = False
    finally:
        os.close(fd)
    reach("received")


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            raise OSError(22, "failed to read qemu header")
        data += more
    return data


def _read_head(fd: int) -> bytes:
    header = _read_exactly(fd, HEADER_SIZE)
    if header[:16] != b"LibvirtQemudSave":
        raise OSError(22, "image magic is incorrect")
    return header + _read_exactly(fd, int(struct.unpack_from("<I", header, 20)[0]))


def main() -> int:
    """Serve one call; return the exit status."""
    op, path, image_file, *rest = sys.argv[1:]
    hold_at = rest[0] if rest else ""
    image = Path(image_file).read_bytes()

    def reach(moment: str) -> None:
        sys.stdout.write(f"{moment}\n")
        sys.stdout.flush()
        if moment == hold_at:
            sys.stdin.readline()

    try:
        if op == "save":
            save_to(path, image, reach)
            return 0
        received = bytearray()
        restore_from(path, reach, received)
        return 0 if bytes(received) == image else WRONG_IMAGE
    except OSError as error:
        return error.errno or 1


if __name__ == "__main__":
    sys.exit(main())
