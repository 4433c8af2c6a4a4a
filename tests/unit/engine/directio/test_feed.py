from __future__ import annotations

import os
import random
import struct
import subprocess
import threading
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.cancel import CancelToken
from engine.directio.feed import Feed, RawFeed, ZstdFeed
from engine.errors import CancelledError, ImageFormatError
from engine.image.head import parse_head
from engine.image.header import HEADER_SIZE, ImageFormat
from engine.imagesender import ImageSender, front_for_hypervisor
from tests.data.libvirt_peer import make_image

XML = "<domain><name>web-1</name></domain>"
HEAD_SIZE = len(make_image(XML, b""))
#: Compressible in part, as memory is.
MEMORY = bytes(700_000) + random.Random(9).randbytes(900_000) + b"page" * 200_000  # noqa: S311


def size_of_head(header: bytes) -> int:
    """Return how long a head is, from its header."""
    return HEADER_SIZE + int(struct.unpack_from("<I", header, 20)[0])


def feed_all(data: bytes, *, level: int | None, buffer_size: int) -> bytes:
    """Return what a feed makes of a pipe's bytes, buffer by buffer."""
    source, sink = os.pipe()

    def write() -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(sink, view) :]
        os.close(sink)

    writer = threading.Thread(target=write)
    writer.start()
    raw = RawFeed(source, CancelToken(), "stream")
    feed: Feed = raw if level is None else ZstdFeed(raw, level=level, head_size=size_of_head)
    parts, buffer = [], memoryview(bytearray(buffer_size))
    while True:
        count = feed.fill(buffer)
        parts.append(bytes(buffer[:count]))
        if count < buffer_size:
            break
    writer.join()
    os.close(source)
    return b"".join(parts)


def make_sender(
    image: bytes,
    send_first: Callable[[memoryview], None],
    send: Callable[[memoryview], None],
    on_first: Callable[[], None] = lambda: None,
    *,
    domain_xml: str | None = None,
) -> ImageSender:
    """Return a sender of an image file, as a restore makes it."""
    head = parse_head(image, path="a.save")
    return ImageSender(
        image[: head.header.stream_offset],
        front_for_hypervisor(head, image, path="a.save", domain_xml=domain_xml),
        is_packed=head.header.format is ImageFormat.ZSTD,
        send_first=send_first,
        send=send,
        on_first=on_first,
    )


def send_all(image: bytes, piece_size: int, domain_xml: str | None = None) -> bytes:
    """Return what libvirt gets of an image file, delivered in pieces."""
    received = bytearray()
    calls: list[str] = []

    def send_first(data: memoryview) -> None:
        calls.append("first")
        received.extend(data)

    sender = make_sender(
        image, send_first, received.extend, lambda: calls.append("on_first"), domain_xml=domain_xml
    )
    for offset in range(0, len(image), piece_size):
        sender.deliver(memoryview(image)[offset : offset + piece_size])
    sender.finish()
    assert calls == ["on_first", "first"]
    return bytes(received)


def as_zstd(image: bytes) -> bytes:
    """Return the same image with the header of a compressed one."""
    return image[:28] + struct.pack("<I", ImageFormat.ZSTD) + image[32:]


@settings(max_examples=20)
@given(st.integers(0, len(MEMORY)), st.sampled_from([4096, 65536, 2 << 20]))
@example(0, 4096)
@example((1 << 20) - HEAD_SIZE, 65536)
@example((1 << 20) - HEAD_SIZE - 1, 65536)
@example((1 << 20) - HEAD_SIZE + 1, 65536)
@example(2 * (1 << 20) - HEAD_SIZE, 65536)
def test_image_survives_compression(size: int, buffer_size: int) -> None:
    """Whatever its length, what is compressed on the way in is the same image on the way out."""
    image = make_image(XML, MEMORY[:size])

    packed = feed_all(image, level=1, buffer_size=buffer_size)

    assert packed[:HEAD_SIZE] == image[:HEAD_SIZE]
    assert send_all(as_zstd(packed), buffer_size) == image


@pytest.mark.parametrize("buffer_size", [4096, 65536, 2 << 20])
def test_raw_image_passes_as_it_is(buffer_size: int) -> None:
    """Without compression not one byte is touched, in or out."""
    image = make_image(XML, MEMORY)

    assert feed_all(image, level=None, buffer_size=buffer_size) == image
    assert send_all(image, buffer_size) == image


def test_stream_is_what_the_zstd_program_reads() -> None:
    """Libvirt gives it to that program: nobody needs us to restore."""
    packed = feed_all(make_image(XML, MEMORY), level=3, buffer_size=65536)

    assert len(packed) < len(MEMORY)
    done = subprocess.run(["zstd", "-dc"], input=packed[HEAD_SIZE:], capture_output=True, check=True)
    assert done.stdout == MEMORY


def test_libvirt_sees_a_raw_head() -> None:
    """At its first look, too: the format in the header is raw, everything else is as it was saved."""
    image = make_image(XML, b"memory")

    seen = front_for_hypervisor(parse_head(as_zstd(image), path="a.save"), as_zstd(image), path="a.save")

    assert seen == image[:HEAD_SIZE]


@pytest.mark.parametrize("level", [None, 1])
@pytest.mark.parametrize("added", [0, 100_000])
def test_another_xml_takes_the_place_of_the_image_s_own(level: int | None, added: int) -> None:
    """The memory behind it is the same, also where the XML needs more room than the image has."""
    image = make_image(XML, MEMORY)
    packed = image if level is None else as_zstd(feed_all(image, level=level, buffer_size=65536))
    xml = XML.replace("web-1", "web-2" + added * " ")

    sent = send_all(packed, 4096, domain_xml=xml)

    head = parse_head(sent, path="sent")
    assert head.domain_xml == xml
    assert head.header.format is ImageFormat.RAW
    assert sent[head.header.stream_offset :] == MEMORY


def test_head_that_changes_between_two_looks_is_told() -> None:
    """What libvirt was shown first must be what the checksum was made of."""
    image = make_image(XML, MEMORY)
    sender = make_sender(image, lambda _data: None, lambda _data: None)

    with pytest.raises(ImageFormatError, match="changed while it was read"):
        sender.deliver(memoryview(image.replace(b"web-1", b"web-2")))


@pytest.mark.parametrize("lost", [1, 100, 1000])
def test_compressed_stream_without_its_end_is_told(lost: int) -> None:
    """A frame that is cut short is no whole image."""
    packed = as_zstd(feed_all(make_image(XML, MEMORY), level=1, buffer_size=65536))

    with pytest.raises(ImageFormatError, match="has no end"):
        send_all(packed[:-lost], 65536)


def test_stream_that_is_not_compressed_is_told() -> None:
    """A header that lies about the format is found out by the first bytes."""
    with pytest.raises(ImageFormatError, match="no zstd stream"):
        send_all(as_zstd(make_image(XML, MEMORY)), 65536)


def test_image_that_unpacks_to_a_flood_is_sent_in_small_pieces() -> None:
    """A hostile image cannot make us hold what it unpacks to."""
    packed = as_zstd(feed_all(make_image(XML, bytes(64 << 20)), level=1, buffer_size=65536))
    sizes: list[int] = []
    sender = make_sender(packed, lambda data: sizes.append(len(data)), lambda data: sizes.append(len(data)))

    sender.deliver(memoryview(packed))
    sender.finish()

    assert sum(sizes) == HEAD_SIZE + (64 << 20)
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("level", [None, 1])
def test_cancel_ends_a_silent_feed(level: int | None) -> None:
    """A guest that sends nothing does not keep a cancelled engine."""
    source, sink = os.pipe()
    cancel = CancelToken()
    raw = RawFeed(source, cancel, "stream")
    feed: Feed = raw if level is None else ZstdFeed(raw, level=level, head_size=size_of_head)
    cancel.cancel("by a test")

    with pytest.raises(CancelledError):
        feed.fill(memoryview(bytearray(4096)))

    os.close(source)
    os.close(sink)
