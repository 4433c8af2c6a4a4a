"""Say what a save image is, and show its domain XML: any libvirt image, whoever made it, no daemon needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from engine.directio.target import DirectFile, open_direct, storage_error
from engine.domxml.document import identity_of, parse_domain_xml
from engine.domxml.facts import MachineFacts, has_secrets, hide_secrets, machine_facts
from engine.errors import EngineError, StorageError
from engine.flags import BypassPolicy
from engine.image.edit import padding_of
from engine.image.head import ImageHead
from engine.image.header import MAGIC_DONE, MAGIC_PARTIAL
from engine.image.manifest import Manifest
from engine.store.images import find_manifest, read_head
from engine.store.places import find_image


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What one save image is."""

    #: The image file, links followed.
    path: str
    #: The 16 bytes it begins with.
    magic: str
    #: Marked as finished, and as long as it has to be.
    is_complete: bool
    #: Why it is not complete; empty when it is.
    incomplete_because: str
    version: int
    #: The writer's: "little" or "big".
    byte_order: str
    #: "raw", "gzip", "bzip2", "xz", "lzop", "zstd" or "sparse"; how the memory is stored.
    format: str
    #: libvirt's number of the format.
    format_code: int
    #: The guest runs after a restore.
    was_running: bool
    #: Length of the file in bytes; what stands before the memory; the XML in it; the cookie.
    file_bytes: int
    head_bytes: int
    xml_bytes: int
    cookie_bytes: int
    #: How much larger the XML may become before the memory has to move.
    padding_bytes: int
    #: Bytes of memory stream.
    stream_bytes: int
    domain: str
    #: None where the XML has none.
    domain_uuid: str | None
    machine: MachineFacts
    #: None where nobody wrote one, as beside images that virsh made.
    manifest: Manifest | None
    #: Why the manifest beside the image cannot be used; empty when it can, and when there is none.
    manifest_problem: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object; checksums of parts stay in the manifest."""
        document = asdict(self)
        if self.manifest is not None:
            sums = self.manifest.checksum
            document["manifest"]["checksum"] = {"algorithm": sums.algorithm, "value": sums.value}
        return document


def image_info(path: Path | str) -> ImageInfo:
    """Return what a save image is; reads only what stands before the memory.

    An image that is not complete is described, too: look at is_complete.

    Args:
        path: a save image, or the directory of a restore point.

    Raises:
        ImageFormatError, DomainXmlError: it is no save image, or holds no domain XML.
        ImageIncompleteError: it ends before its domain XML does.
        StorageError: it cannot be read.
    """
    with open_for_a_look(path) as file:
        head, _ = read_head(file, accept_partial=True)
        size = os.fstat(file.fd).st_size
        manifest, problem = None, ""
        try:
            manifest = find_manifest(file, size)
        except EngineError as error:
            problem = str(error)
    return _describe(str(file.path), size, head, manifest, problem)


def image_dumpxml(path: Path | str, *, security_info: bool = False) -> str:
    """Return the domain XML of a complete save image (virDomainSaveImageGetXMLDesc).

    Args:
        path: a save image, or the directory of a restore point.
        security_info: passwords and all, the text to the byte as it is in the image;
            without it passwords are hidden, and text that is no XML is refused.

    Raises:
        ImageFormatError, DomainXmlError: it is no save image, or holds no domain XML.
        ImageIncompleteError: its save never finished, or it ends before its domain XML does.
        StorageError: it cannot be read.
    """
    with open_for_a_look(path) as file:
        head, _ = read_head(file)
    if security_info:
        return head.domain_xml
    root = parse_domain_xml(head.domain_xml, where=str(file.path))
    if not has_secrets(root):
        return head.domain_xml
    hide_secrets(root)
    return etree.tostring(root.getroottree(), encoding="unicode") + "\n"


def locate_image(path: Path | str) -> Path:
    """Return the image file that a path leads to, absolute, links followed.

    Raises:
        StorageError: nothing there, nothing readable, or no file.
    """
    with name_errors(path):
        given = Path(os.path.realpath(path))
        if given.is_fifo() or given.is_socket() or given.is_char_device():
            # Opening it might wait for ever.
            raise StorageError(str(given), "not a regular file", "a save image")
        return Path(os.path.realpath(find_image(given)))


@contextmanager
def open_for_a_look(path: Path | str) -> Iterator[DirectFile]:
    """Give the image of a path, open for reading, links followed; nothing of it stays in the page cache.

    Raises:
        StorageError: nothing there, or nothing readable.
    """
    with name_errors(path):
        file = open_direct(locate_image(path), os.O_RDONLY, BypassPolicy.PREFER)
        try:
            yield file
            # Where the file system has no direct I/O, the look has filled the cache.
            file.forget_cached()
        finally:
            file.close()


@contextmanager
def name_errors(path: Path | str) -> Iterator[None]:
    """Turn what the system says of an image's disk into an error of ours.

    Raises:
        StorageError, NoSpaceError: a system call failed.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(str(path), error, "looking at the image") from error


def _why_incomplete(size: int, head: ImageHead, manifest: Manifest | None) -> str:
    """Return what an image lacks, empty when it is marked as finished and as long as it has to be."""
    if not head.header.is_complete:
        return "its save never finished"
    if size <= head.header.stream_offset:
        return "it ends before the guest's memory begins"
    if manifest is not None and manifest.image_bytes != size:
        return f"{size} bytes long, {manifest.image_bytes} by its manifest"
    return ""


def _describe(path: str, size: int, head: ImageHead, manifest: Manifest | None, problem: str) -> ImageInfo:
    header = head.header
    root = parse_domain_xml(head.domain_xml, where=path)
    identity = identity_of(root, where=path)
    why = _why_incomplete(size, head, manifest)
    return ImageInfo(
        path=path,
        magic=(MAGIC_DONE if header.is_complete else MAGIC_PARTIAL).decode(),
        is_complete=not why,
        incomplete_because=why,
        version=header.version,
        byte_order="little" if header.byte_order == "<" else "big",
        format=header.format.name.lower(),
        format_code=int(header.format),
        was_running=header.was_running,
        file_bytes=size,
        head_bytes=header.stream_offset,
        xml_bytes=len(head.domain_xml.encode()),
        cookie_bytes=len(head.cookie.encode()),
        padding_bytes=padding_of(head),
        stream_bytes=max(0, size - header.stream_offset),
        domain=identity.name,
        domain_uuid=None if identity.uuid is None else str(identity.uuid),
        machine=machine_facts(root),
        manifest=manifest,
        manifest_problem=problem,
    )
