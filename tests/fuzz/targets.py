"""Say what no input may do to a parser, and with which inputs a fuzzer begins.

A target takes any bytes. It returns when the parser took them or refused them with its own
error; whatever else it raises is a defect. What was taken has to survive being written and
read again.
"""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from engine.checksum import Checksum
from engine.domxml.changes import list_changes
from engine.domxml.compare import compare
from engine.domxml.disks import list_disks
from engine.domxml.document import check_same_domain, identity_of, parse_domain_xml
from engine.domxml.facts import HIDDEN, hide_secrets, machine_facts
from engine.domxml.identity import derive_identity, rename_domain
from engine.domxml.rewrite import rewrite
from engine.domxml.rules import parse_rules
from engine.errors import (
    AbiError,
    DomainXmlError,
    EngineError,
    ImageFormatError,
    ImageIncompleteError,
    InvalidArgumentError,
    NotSupportedError,
)
from engine.image.edit import edit_head
from engine.image.head import parse_head
from engine.image.header import HEADER_SIZE
from engine.image.manifest import Manifest, parse_manifest
from engine.image.qcow2 import BitmapsExtension, Qcow2Header, parse_bitmap_directory, parse_qcow2
from engine.request import EngineRequest, parse_request
from engine.store.record import Record, parse_record
from engine.units import KiB, MiB
from tests.data.libvirt_peer import make_image
from tests.data.qcow2_files import make_qcow2

#: Bytes that an input may have, and that a parser may allocate for it at one time.
INPUT_SIZE_MAX: Final = 1 * MiB
ALLOCATION_MAX: Final = 64 * MiB

XML: Final = (
    "<domain type='kvm'><name>web-1</name><uuid>0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d</uuid>"
    "<memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>"
    "<cpu mode='custom'><model>qemu64</model></cpu><devices>"
    "<graphics type='vnc' passwd='secret'/></devices></domain>"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One parser under test."""

    run: Callable[[bytes], None]
    #: Inputs to begin with.
    seeds: tuple[bytes, ...]
    #: Words that the fuzzer may put anywhere.
    words: tuple[str, ...] = ()


def fuzz_head(data: bytes) -> None:
    """Take the front of an image apart; what was taken can be edited and read again."""
    try:
        head = parse_head(data, path="fuzz")
    except (ImageFormatError, ImageIncompleteError):
        return
    assert head.header.pack()[16:24] == data[16:24]
    assert len(head.domain_xml.encode()) < head.header.data_size
    for xml in (head.domain_xml + " ", "x" * 70 * KiB):
        try:
            edited = edit_head(head, path="fuzz", domain_xml=xml, was_running=not head.header.was_running)
        except (NotSupportedError, ImageFormatError):
            continue
        assert parse_head(edited.data, path="fuzz") == edited.head
        assert len(edited.data) == head.header.stream_offset + edited.shift
    fuzz_domain_xml(head.domain_xml.encode())


def fuzz_domain_xml(data: bytes) -> None:
    """Read domain XML from anywhere; say what it holds, compare it."""
    text = data.decode(errors="replace")
    try:
        root = parse_domain_xml(text, where="fuzz")
        identity_of(root, where="fuzz")
        check_same_domain(XML, text, where="fuzz")
    except (DomainXmlError, AbiError):
        return
    machine_facts(root)
    list_disks(root)
    seed = parse_domain_xml(XML, where="seed")
    list_changes(seed, root)
    assert compare(root, root).differences == ()
    assert compare(seed, root).stable is compare(root, seed).stable
    hide_secrets(root)
    assert all(graphics.get("passwd") in {None, HIDDEN} for graphics in root.iter("graphics"))


def fuzz_rewrite(data: bytes) -> None:
    """Rewrite domain XML from anywhere, rename it; what comes out can be read, and says so."""
    text = data.decode(errors="replace")
    try:
        done = rewrite(text, _RULES, where="fuzz")
        identity = derive_identity(parse_domain_xml(done.xml, where="fuzz"), "copy", where="fuzz")
        renamed = rename_domain(done.xml, identity, where="fuzz")
    except (DomainXmlError, AbiError) as error:
        _check_sentence(error)
        return
    assert done.changes or done.xml == text
    assert identity_of(parse_domain_xml(renamed.xml, where="fuzz"), where="fuzz").name == "copy"
    # The same word elsewhere, in a text that was mutated, is no password.
    shown = " ".join(str(value) for change in done.changes for value in (change.old, change.new))
    assert set(re.findall(r"""passwd=["']([^"']*)""", shown)) <= {HIDDEN}
    assert all(
        value in {None, HIDDEN} for change in done.changes if "passwd" in change.xpath
        for value in (change.old, change.new)
    )  # fmt: skip


def fuzz_rules(data: bytes) -> None:
    """Read rules from anywhere; what was taken can be tried."""
    try:
        rules = parse_rules(data.decode(errors="replace"), where="fuzz")
        # A regex from anywhere may take for ever: that is its author's affair.
        if not any(pattern.regex for rule in rules.rules for pattern in rule.patterns.values()):
            rewrite(XML, rules, where="fuzz")
    except (DomainXmlError, AbiError) as error:
        _check_sentence(error)


def fuzz_manifest(data: bytes) -> None:
    """Read a manifest; what was taken reads the same once written."""
    try:
        manifest = parse_manifest(data.decode(errors="replace"), path="fuzz")
    except ImageFormatError as error:
        _check_sentence(error)
        return
    assert parse_manifest(manifest.to_json(), path="fuzz") == manifest


def fuzz_qcow2(data: bytes) -> None:
    """Read the head of a disk, and the bytes as a list of bitmaps, too; what was taken can become JSON."""
    for count in (1, 2**16 - 1):
        try:
            bitmaps = parse_bitmap_directory(data, count, path="fuzz")
        except ImageFormatError as error:
            _check_sentence(error)
        else:
            assert len(bitmaps) == count
    try:
        header = parse_qcow2(data, path="fuzz")
    except ImageFormatError as error:
        _check_sentence(error)
        return
    assert 0 <= header.virtual_size < 2**63
    json.dumps(asdict(header)).encode()


def fuzz_record(data: bytes) -> None:
    """Read a staging record; what was taken reads the same once written."""
    try:
        record = parse_record(data.decode(errors="replace"), path="fuzz")
    except ImageFormatError as error:
        _check_sentence(error)
        return
    assert parse_record(record.to_json(), path="fuzz") == record


def fuzz_request(data: bytes) -> None:
    """Read an engine's request; what was taken reads the same once written."""
    try:
        request = parse_request(data.decode(errors="replace"))
    except InvalidArgumentError as error:
        _check_sentence(error)
        return
    assert parse_request(request.to_json()) == request


def _check_sentence(error: EngineError) -> None:
    """An error can be printed and sent, whatever the input was."""
    assert "\n" not in error.message
    json.dumps(error.to_dict())


def peak_allocation(run: Callable[[bytes], None], data: bytes) -> int:
    """Return the most bytes that Python's objects took at one time while a target ran."""
    tracemalloc.start()
    try:
        run(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _seed_manifest() -> Manifest:
    return Manifest(
        job_id="job-1",
        op="save",
        domain="web-1",
        domain_uuid="0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d",
        host="alpha",
        taken_at="2026-01-01T00:00:00+00:00",
        fleetsave_version="0.1.0",
        libvirt_version="11.3.0",
        hypervisor_version="10.0.0",
        machine="q35",
        cpu_model="qemu64",
        was_running=True,
        image_bytes=1234,
        checksum=Checksum(algorithm="blake3", value="00ff", parts=("00ff",)),
        guest_paused_seconds=0.5,
        duration_seconds=1.5,
        throughput_bytes_per_second=1e9,
        data_path="stream",
        bypass_cache={"policy": "require"},
        dxml_changes=[{"xpath": "/domain/name", "old": None, "new": "x"}],
    )


def _seed_record() -> Record:
    return Record(
        job_id="job-1",
        op="save",
        domain="web-1",
        domain_uuid="0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d",
        run_id=7,
        was_running=True,
        final="/srv/web-1.save",
        is_point=False,
        boot_id="00000000-0000-0000-0000-000000000000",
    )


def _seed_request() -> EngineRequest:
    return EngineRequest(
        op="save",
        job_id="job-1",
        host="alpha",
        uri="qemu:///system",
        runtime_dir="/run/fleetsave",
        domain="web-1",
    )


def _qcow2_disks() -> tuple[bytes, ...]:
    """Return heads of disks with all extensions, with fields that lie, and cut short."""
    header = Qcow2Header(
        version=3,
        virtual_size=2**24,
        cluster_bits=12,
        l1_size=1,
        l1_offset=196608,
        snapshots=0,
        incompatible_features=4,
        compatible_features=0,
        autoclear_features=1,
        backing_file="base.qcow2",
        data_file="a.data",
        bitmaps=BitmapsExtension(count=1, directory_size=32, directory_offset=65536),
    )
    whole = make_qcow2(header)
    lies = [
        whole[:offset] + value.to_bytes(4, "big") + whole[offset + 4 :]
        for offset in range(4, 160, 4)
        for value in (0, 1, 2**31, 2**32 - 1)
    ]
    return (whole, *lies, *(whole[:size] for size in (0, 4, 71, 72, 103, 104, 112, 130)))


def _images() -> tuple[bytes, ...]:
    """Return fronts of images in both byte orders, with and without cookie, with fields that lie."""
    whole = [
        make_image(XML, b"QEVM" + bytes(60), cookie=cookie, byte_order=order)
        for order in "<>"
        for cookie in ("", "<cookie/>")
    ]
    lies = [
        _patched(whole[1], offset, value) for offset in range(16, 36, 4) for value in (0, 1, 2**31, 2**32 - 1)
    ]
    cut = [whole[1][:size] for size in (0, 16, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 100)]
    return (*whole, *lies, *cut)


def _patched(image: bytes, offset: int, value: int) -> bytes:
    return image[:offset] + value.to_bytes(4, "little") + image[offset + 4 :]


def _json_seeds(document: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return a document, and the same with each value of another type."""
    odd: tuple[object, ...] = (None, [], {}, -1, 1.5, "", True, [[]], "\ud800")
    variants = [{**document, key: value} for key in document for value in odd]
    return (
        *(json.dumps(variant).encode() for variant in (document, *variants)),
        b"[" * 100_000,
        b'{"format":1,"checksum":' + b"[" * 50_000,
        b"NaN",
        b"1" * 5000,
    )


_MANIFEST: Final = asdict(_seed_manifest())
_RECORD: Final = asdict(_seed_record())
_REQUEST: Final = asdict(_seed_request())
_JSON_WORDS: Final = (
    "null",
    "true",
    "false",
    "NaN",
    "Infinity",
    "-1",
    "[]",
    "{}",
    "[[",
    '{"',
    "1e999",
    "\\ud800",
)

_RULES_TEXT: Final = """on_crash = "restart"
[[disk]]
source = { prefix = "/a/", replace = "/b/" }
optional = true
[[disk]]
device = "cdrom"
set = { type = "network", protocol = "nbd", name = "x", host = "h" }
optional = true
[[interface]]
set = { network = "default" }
optional = true
[[graphics]]
set = { listen = "::", port = "auto" }
optional = true
[[serial]]
set = { type = "pty", log = "/l" }
optional = true
[[hostdev]]
pci = "03:00.0"
set = { pci = "04:00.0" }
optional = true
[[seclabel]]
remove = true
optional = true
"""
_RULES: Final = parse_rules(_RULES_TEXT, where="fuzz")
_RICH_XML: Final = XML.replace(
    "<devices>",
    "<seclabel type='none'/><devices><disk type='file' device='cdrom'><source file='/a/x'/></disk>"
    "<interface type='network'><source network='n' portid='p'/></interface><serial type='file'>"
    "<source path='/a'/></serial><console type='file'><source path='/a'/></console><hostdev type='pci'>"
    "<source><address bus='0x03' slot='0' function='0'/></source></hostdev>",
)

TARGETS: Final[Mapping[str, Target]] = {
    "head": Target(
        run=fuzz_head, seeds=_images(), words=("LibvirtQemudSave", "LibvirtQemudPart", "<domain>")
    ),
    "domain_xml": Target(
        run=fuzz_domain_xml,
        seeds=(XML.encode(), b"<domain/>", b"<!DOCTYPE domain><domain/>", b"<a>" * 300),
        words=(
            "<domain>",
            "</domain>",
            "<!DOCTYPE",
            "<!ENTITY",
            "&x;",
            "<uuid>",
            "<?xml encoding='UTF-16'?>",
        ),
    ),
    "rewrite": Target(
        run=fuzz_rewrite,
        seeds=(XML.encode(), _RICH_XML.encode(), b"<domain><name>a</name></domain>"),
        words=(
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "<?a ?>",
            "&#39;",
            "<source",
            "<listen",
            "' path='",
            ">",
            "/>",
        ),
    ),
    "rules": Target(
        run=fuzz_rules,
        seeds=(_RULES_TEXT.encode(), b"[disk]", b"a = " + b"[" * 5000),
        words=("[[disk]]", "set = ", "{", "}", "exact = ", "regex = ", "replace = ", "optional = true", "[["),
    ),
    "manifest": Target(
        run=fuzz_manifest,
        seeds=_json_seeds(_MANIFEST),
        words=(*_JSON_WORDS, *(f'"{key}"' for key in _MANIFEST)),
    ),
    "qcow2": Target(run=fuzz_qcow2, seeds=_qcow2_disks(), words=("QFI",)),
    "record": Target(
        run=fuzz_record, seeds=_json_seeds(_RECORD), words=(*_JSON_WORDS, *(f'"{key}"' for key in _RECORD))
    ),
    "request": Target(
        run=fuzz_request, seeds=_json_seeds(_REQUEST), words=(*_JSON_WORDS, *(f'"{key}"' for key in _REQUEST))
    ),
}
