from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domxml.document import XML_SIZE_MAX, check_same_domain, identity_of, parse_domain_xml
from engine.errors import AbiError, DomainXmlError
from engine.units import MiB

UUID = "0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d"
OTHER_UUID = "11111111-6d0a-4f0e-9c3a-2f1d6a7b8c9d"
_ROOT = Path(__file__).resolve().parents[4]
#: Seconds; a bound that holds on a busy machine, far below what an attack would take.
SECONDS = 1.0

BOMB = (
    '<!DOCTYPE domain [<!ENTITY a0 "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    + "]><domain><name>{}</name></domain>"
)
HOSTILE = {
    "entity-bomb": BOMB.format("&a11;"),
    "entity-bomb-in-an-attribute": BOMB.replace("<name>{}</name>", '<name x="&a11;"/>'),
    "quadratic-bomb": f'<!DOCTYPE domain [<!ENTITY a "{"a" * 100_000}">]><domain>{"&a;" * 10_000}</domain>',
    "external-entity": '<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name></domain>',
    "parameter-entity": '<!DOCTYPE domain [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]><domain/>',
    "external-DTD": '<!DOCTYPE domain SYSTEM "http://127.0.0.1:1/x.dtd"><domain/>',
    "empty-DTD": "<!DOCTYPE domain><domain><name>a</name></domain>",
    "unknown-entity": "<domain><name>&nbsp;</name></domain>",
    "too-large": "<domain><name>" + "a" * 100 * MiB + "</name></domain>",
    "large-in-bytes": "<domain><name>" + "\u20ac" * (XML_SIZE_MAX // 2) + "</name></domain>",
    "deep": "<domain>" * 100_000 + "</domain>" * 100_000,
    "deep-and-open": "<domain>" * 100_000,
    "many-attributes-twice": "<domain " + "a='' " * 100_000 + "/>",
    "NUL": "<domain><name>a\0b</name></domain>",
    "control-character": "<domain><name>\x01</name></domain>",
    "surrogate": "<domain><name>\ud800</name></domain>",
    "declared-UTF-16": '<?xml version="1.0" encoding="UTF-16"?><domain><name>a</name></domain>',
    "declared-latin-1": '<?xml version="1.0" encoding="ISO-8859-1"?><domain><name>\u00e9</name></domain>',
    "declared-nonsense": '<?xml version="1.0" encoding="nonsense"?><domain/>',
    "empty": "",
    "space": "   \n",
    "text": "domain",
    "two-roots": "<domain/><domain/>",
    "other-root": "<domainsnapshot/>",
    "root-in-a-namespace": "<domain xmlns='urn:x'/>",
    "unclosed": "<domain>",
    "comment-only": "<!-- domain -->",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_text_is_refused_at_once(name: str) -> None:
    """Neither entities nor depth nor size are followed: the answer is a short error, and comes soon."""
    began = time.monotonic()

    with pytest.raises(DomainXmlError) as caught:
        parse_domain_xml(HOSTILE[name], where="dxml")

    assert time.monotonic() - began < SECONDS
    assert str(caught.value).startswith("dxml: ")
    assert len(str(caught.value)) < 1000
    assert "root:" not in str(caught.value)


def test_hostile_text_takes_little_memory() -> None:
    """With an address space that a parsed bomb would burst, every one of them is still refused."""
    program = (
        "from tests.unit.engine.domxml.test_document import *\n"
        "import resource\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400 * MiB, used + 400 * MiB))\n"
        "for name in sorted(HOSTILE):\n"
        "    try:\n"
        "        parse_domain_xml(HOSTILE[name], where='dxml')\n"
        "    except DomainXmlError:\n"
        "        continue\n"
        "    raise SystemExit(name)\n"
        "print('refused')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"


@given(st.text(max_size=200))
def test_any_text_is_a_domain_or_refused(text: str) -> None:
    """Nothing but our error comes out, whatever goes in."""
    for candidate in (text, f"<domain>{text}</domain>", f"<domain a='{text}'/>"):
        try:
            root = parse_domain_xml(candidate, where="dxml")
        except DomainXmlError:
            continue
        assert root.tag == "domain"


@pytest.mark.parametrize(
    "text",
    [
        "<domain/>",
        '<?xml version="1.0"?><domain/>',
        '<?xml version="1.0" encoding="UTF-8"?><domain/>',
        "<?xml version='1.0' encoding='utf-8'?>\n<!-- a --><domain>\n</domain>\n",
        "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:commandline/></domain>",
        "<domain><name>caf\u00e9 &amp; &lt;more&gt; \U0001f600</name></domain>",
    ],
)
def test_ordinary_text_is_taken(text: str) -> None:
    """Declarations, comments, namespaces and any character are no attack."""
    assert parse_domain_xml(text, where="dxml").tag == "domain"


def test_largest_text_is_taken() -> None:
    """The bound is what it says."""
    text = f"<domain>{'a' * (XML_SIZE_MAX - 17)}</domain>"

    assert len(text) == XML_SIZE_MAX
    assert parse_domain_xml(text, where="dxml").text == "a" * (XML_SIZE_MAX - 17)
    with pytest.raises(DomainXmlError, match="at most"):
        parse_domain_xml(text.replace("<domain>", "<domain >"), where="dxml")


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        ("", "without a <name>"),
        ("<name/>", "without a <name>"),
        ("<name>  </name>", "without a <name>"),
        ("<name>a</name><uuid>none</uuid>", "uuid 'none', want a UUID"),
        ("<name>a</name><uuid>0b5e4f7c</uuid>", "uuid '0b5e4f7c'"),
    ],
)
def test_domain_without_identity_is_refused(inside: str, sentence: str) -> None:
    """A domain has a name, and a UUID that is one where it has one."""
    with pytest.raises(DomainXmlError, match=sentence):
        identity_of(parse_domain_xml(f"<domain>{inside}</domain>", where="dxml"), where="dxml")


def test_identity_is_read_as_libvirt_prints_it() -> None:
    """Space around name and UUID does not count; a missing UUID is none."""
    root = parse_domain_xml(f"<domain><name> a </name><uuid>\n{UUID}\n</uuid></domain>", where="dxml")

    assert (identity_of(root, where="dxml").name, str(identity_of(root, where="dxml").uuid)) == ("a", UUID)
    assert identity_of(parse_domain_xml("<domain><name>a</name></domain>", where="d"), where="d").uuid is None


def _domain(name: str, uuid: str | None) -> str:
    return f"<domain><name>{name}</name>{f'<uuid>{uuid}</uuid>' if uuid else ''}</domain>"


@pytest.mark.parametrize("new", [_domain("a", UUID), _domain("a", None), _domain("a", UUID.upper())])
def test_dxml_of_the_same_domain_is_taken(new: str) -> None:
    """Same name and UUID, or no UUID at all."""
    check_same_domain(_domain("a", UUID), new, where="dxml")


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (_domain("a", OTHER_UUID), f"dxml: /domain/uuid is {OTHER_UUID}, want {UUID}"),
        (_domain("b", UUID), "dxml: /domain/name is 'b', want 'a'"),
        (_domain("A", UUID), "dxml: /domain/name is 'A', want 'a'"),
    ],
)
def test_dxml_of_another_domain_is_refused(new: str, sentence: str) -> None:
    """A dxml may not make another domain of a guest."""
    with pytest.raises(AbiError) as caught:
        check_same_domain(_domain("a", UUID), new, where="dxml")

    assert str(caught.value).startswith(sentence)
    assert caught.value.exit_code == 11
