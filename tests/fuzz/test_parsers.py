"""The parsers of what others may have written survive any bytes; `make fuzz` looks for longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.libvirt_peer import make_image
from tests.fuzz import run
from tests.fuzz.targets import ALLOCATION_MAX, INPUT_SIZE_MAX, TARGETS, XML, peak_allocation

START = b"<domain><name>web-1</name><uuid>0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d</uuid>"
MANIFEST_START = b'{"format": 1, "checksum": {"parts": '
#: What costs most memory for each byte, a whole input of it.
GREEDY = {
    "manifest": (
        b"[" * INPUT_SIZE_MAX,
        MANIFEST_START + b"[" + b"[]," * (INPUT_SIZE_MAX // 3 - 20) + b"0]}}",
        MANIFEST_START + b"[" + b'{"":0},' * (INPUT_SIZE_MAX // 7 - 20) + b"0]}}",
        MANIFEST_START + b"[" + b"1.5," * (INPUT_SIZE_MAX // 4 - 20) + b"0]}}",
        MANIFEST_START + b'"' + b"\\u1234" * (INPUT_SIZE_MAX // 6 - 20) + b'"}}',
    ),
    "record": (
        b"[" + b'{"":0},' * (INPUT_SIZE_MAX // 7 - 20) + b"0]",
        b'{"' + b"a" * (INPUT_SIZE_MAX - 6) + b'":0}',
    ),
    "request": (
        b"[" + b'{"":0},' * (INPUT_SIZE_MAX // 7 - 20) + b"0]",
        b'{"' + b"a" * (INPUT_SIZE_MAX - 6) + b'":0}',
    ),
    "head": tuple(
        image[:20] + size.to_bytes(4, "little") + image[24:32] + cookie.to_bytes(4, "little") + image[36:]
        for image in (make_image(XML, b"\xff" * (INPUT_SIZE_MAX - 70_000)),)
        for size, cookie in (
            (2**32 - 1, 5),
            (16 * 2**20, 16 * 2**20 - 1),
            (900_000, 2**32 - 1),
            (900_000, 899_999),
        )
    ),
    "qcow2": (
        b"QFI\xfb\0\0\0\3".ljust(INPUT_SIZE_MAX, b"\xff"),
        bytes(INPUT_SIZE_MAX),
    ),
    "rewrite": (
        START + b"<a/>" * 65_000 + b"</domain>",
        START + b"<a b=''/>" * 65_000 + b"</domain>",
        START + b"<a>x</a>" * 65_000 + b"</domain>",
        START + b"<a>" * 200 + b"&#1;" * 200_000 + b"</a>" * 200 + b"</domain>",
        START + b"<devices>" + b"<disk><source file='/a/'/></disk>" * 30_000 + b"</devices></domain>",
        START + b"<devices>" + b"<disk device='cdrom'/>" * 40_000 + b"</devices></domain>",
        START + b"<devices>" + b"<interface/>" * 65_000 + b"</devices></domain>",
        b"<domain " + b" ".join(b"a%d=''" % number for number in range(90_000)) + b"/>",
    ),
    "rules": (
        b"[[disk]]\n" * (INPUT_SIZE_MAX // 9),
        b"[[emulator]]\npath={prefix='/',replace='/'}\n" * 999,
        b"a = " + b"[" * (INPUT_SIZE_MAX - 4),
        b"[[disk]]\nset = {" + b"a=1," * (INPUT_SIZE_MAX // 4 - 20) + b"b=1}",
        b"[[disk]]\nset = {" + b",".join(b"a%d=1" % number for number in range(100_000)) + b"}",
        b"[[disk]]\nsource = '" + b"a" * (INPUT_SIZE_MAX - 40) + b"'",
    ),
    "domain_xml": (
        START + b"<a/>" * (INPUT_SIZE_MAX // 4 - 60) + b"</domain>",
        START + b"<a b=''/>" * (INPUT_SIZE_MAX // 9 - 60) + b"</domain>",
        b"<domain>" + b"<a>" * (INPUT_SIZE_MAX // 3 - 20),
        b"<domain " + b" ".join(b"a%d=''" % number for number in range(90_000)) + b"/>",
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_break_nothing(name: str) -> None:
    """Lying fields, values of other types and deep nesting are taken or refused, never more."""
    target = TARGETS[name]

    assert max(peak_allocation(target.run, seed) for seed in target.seeds) <= ALLOCATION_MAX


@pytest.mark.parametrize("name", TARGETS)
def test_greedy_inputs_get_no_more_than_their_share(name: str, tmp_path: Path) -> None:
    """No input of 1 MiB makes a parser allocate more than 64 MiB, C libraries included."""
    files = []
    for number, data in enumerate(GREEDY[name]):
        assert len(data) <= INPUT_SIZE_MAX
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(data)

    run_limited(name, *files)


def test_lying_files_get_no_more_than_their_share(tmp_path: Path) -> None:
    """A file of 1 MiB whose header speaks of gigabytes is looked at within the same limit."""
    files = []
    for number, data in enumerate((*TARGETS["head"].seeds, *GREEDY["head"])):
        files.append(tmp_path / f"{number}.save")
        files[-1].write_bytes(data)

    run_limited("file", *files)


@pytest.mark.parametrize("name", TARGETS)
def test_two_seconds_of_fuzzing_break_nothing(name: str, tmp_path: Path) -> None:
    """The short form of `make fuzz`."""
    assert run.fuzz(name, 2, tmp_path) > 100


def run_limited(name: str, *files: Path) -> None:
    """Give the files to a target in a process that is held to 64 MiB more than it has."""
    done = subprocess.run(
        [sys.executable, run.ROOT / "tests" / "fuzz" / "limited.py", name, *files],
        env={**os.environ, "PYTHONPATH": str(run.ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
