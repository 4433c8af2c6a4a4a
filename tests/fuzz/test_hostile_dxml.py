"""No domain XML, however hostile, costs `fleetsave dxml check` more than 64 MiB, C libraries included."""

from pathlib import Path
from typing import Final

from engine.units import MiB
from tests.fuzz.test_parsers import run_limited

#: Bytes that the command reads at most.
SIZE: Final = 4 * MiB - 1000
OPEN, CLOSE = b"<domain>", b"</domain>"
ENTITIES: Final = b"<!ENTITY a0 'lol'>" + b"".join(
    b"<!ENTITY a%d '%s'>" % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 12)
)
HOSTILE: Final = {
    "entity-bomb": b"<!DOCTYPE domain [" + ENTITIES + b"]><domain>&a11;</domain>",
    "long-entity": (
        b"<!DOCTYPE domain [<!ENTITY a '" + b"y" * MiB + b"'>]><domain>" + b"&a;" * 100_000 + CLOSE
    ),
    "external-entity": b"<!DOCTYPE domain [<!ENTITY a SYSTEM 'file:///dev/zero'>]><domain>&a;</domain>",
    "external-dtd": b"<!DOCTYPE domain SYSTEM 'file:///dev/zero'><domain/>",
    "parameter-entity": b"<!DOCTYPE domain [<!ENTITY % a SYSTEM 'file:///dev/zero'> %a;]><domain/>",
    "dtd": b"<!DOCTYPE domain><domain/>",
    "text-of-100-MiB": OPEN + b"y" * (100 * MiB) + CLOSE,
    "nested-100,000-times": b"<domain>" + b"<a>" * 100_000 + b"</a>" * 100_000 + CLOSE,
    "elements": OPEN + b"<a/>" * (SIZE // 4) + CLOSE,
    "elements-and-text": OPEN + b"<a/>x" * (SIZE // 5) + CLOSE,
    "elements-of-all-kinds": OPEN + b"<a b='x'>x</a>x" * (SIZE // 15) + CLOSE,
    "comments": OPEN + b"<!---->" * (SIZE // 7) + CLOSE,
    "instructions": OPEN + b"<?a?>" * (SIZE // 5) + CLOSE,
    "attributes": b"<domain " + b" ".join(b"a%d='x'" % number for number in range(SIZE // 14)) + b"/>",
    "NUL": b"<domain><name>a\0b</name></domain>",
    "NUL-only": bytes(SIZE),
    "UTF-16": "<domain/>".encode("utf-16"),
    "other-encoding": b"<?xml version='1.0' encoding='UTF-16'?><domain/>",
    "no-UTF-8": b"<domain>\xff\xfe</domain>",
    "other-root": b"<network/>",
    "nothing": b"",
}  # fmt: skip


def test_hostile_xml_is_refused_within_the_limit(tmp_path: Path) -> None:
    """On either side, with exit code 10."""
    files = []
    for name, data in HOSTILE.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(data)

    run_limited("dxml", *files)
