from collections.abc import Hashable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from engine.domxml.abi.values import (
    CPUS_MAX,
    Convert,
    count,
    cpus,
    default,
    find_at,
    hexadecimal,
    kibibytes,
    mac,
    number,
    own_text,
    present,
    read_at,
    size,
    text_at,
    uuid,
)


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (number, "0", 0),
        (number, "0x1F", 31),
        (number, "017", "017"),
        (number, " 7", " 7"),
        (number, "-1", "-1"),
        (number, "9" * 21, "9" * 21),
        (number, "\N{ARABIC-INDIC DIGIT SEVEN}", "\N{ARABIC-INDIC DIGIT SEVEN}"),
        (number, None, None),
        (count, None, 0),
        (count, "2", 2),
        (hexadecimal, "0x0a", 10),
        (hexadecimal, "a", 10),
        (hexadecimal, "-1", "-1"),
        (hexadecimal, None, None),
        (present, "", True),
        (present, None, False),
        (mac, "52:54:00:AB:CD:EF", "52:54:00:ab:cd:ef"),
        (mac, None, None),
        (uuid, "0B5E4F7C6D0A4F0E9C3A2F1D6A7B8C9D", UUID("0b5e4f7c-6d0a-4f0e-9c3a-2f1d6a7b8c9d")),
        (uuid, "none", "none"),
        (uuid, None, None),
        (default("on"), None, "on"),
        (default("on"), "off", "off"),
        (cpus, "0-3,^2", 0b1011),
        (cpus, "3, 1", 0b1010),
        (cpus, "3-1", "3-1"),
        (cpus, "0-99999", "0-99999"),
        (cpus, "all", "all"),
        (cpus, None, None),
    ],
)
def test_values_are_read_as_libvirt_reads_them(convert: Convert, text: str | None, value: Hashable) -> None:
    """What is not surely understood stays the text that it is."""
    assert convert(text) == value


def test_sets_of_cpus_are_bounded() -> None:
    """As many as libvirt has bits for, and not one more; however often they are named."""
    assert cpus(f"0-{CPUS_MAX - 1}") == cpus(f"0-{CPUS_MAX - 1}," * 1000 + "0") == 2**CPUS_MAX - 1
    assert cpus(f"0-{CPUS_MAX}") == f"0-{CPUS_MAX}"


@given(st.none() | st.text())
def test_any_text_is_read(text: str | None) -> None:
    """No text makes a conversion fail, and equal texts are equal values."""
    for convert in (number, count, hexadecimal, present, mac, uuid, cpus, default("x")):
        assert convert(text) == convert(text)


@given(st.integers(0, 2**60))
def test_numbers_are_equal_in_both_notations(value: int) -> None:
    """Decimal and hexadecimal are one number; another number is another value."""
    assert number(str(value)) == number(hex(value)) == hexadecimal(f"{value:x}") == value
    assert number(str(value + 1)) != number(hex(value))


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("256", "MiB", 262144),
        ("262144", "KiB", 262144),
        ("268435455", "bytes", 262144),
        ("268435457", "b", 262145),
        ("1", "GB", 976563),
        ("1", "cubits", "1 cubits"),
        ("one", "KiB", "one KiB"),
    ],
)
def test_amounts_of_memory_are_rounded_up(text: str, unit: str, value: int | str) -> None:
    """As libvirt does: to whole KiB."""
    assert kibibytes(text, unit) == value


def test_sizes_know_the_unit_of_their_place() -> None:
    """A size without a unit is in the one that libvirt takes there."""
    root = etree.fromstring("<a><b>4</b><c unit='MiB'>4</c><d memory='2' unit='GiB'/></a>")

    assert size("b")(root) == 4
    assert size("b", "MiB")(root) == 4096
    assert size("c")(root) == 4096
    assert size("e")(root) is None


def test_paths_lead_to_attributes_and_texts() -> None:
    """A comment inside a text only interrupts it; what is not there is None."""
    root = etree.fromstring("<a x='1'><b><c y='2'>first <!-- no -->second</c><c y='3'/></b><d/></a>")

    assert text_at(root, "@x") == read_at("@x", number)(root) == "1" or read_at("@x", number)(root) == 1
    assert text_at(root, "b/c/@y") == "2"
    assert text_at(root, "b/c") == read_at("b/c", default("-"))(root) == "first second"
    assert text_at(root, "d") == ""
    assert text_at(root, "d/e/@z") is None
    assert text_at(root, "d/e") is None
    assert find_at(root, "") is root
    assert find_at(root, "b/c/f") is None
    assert own_text(etree.fromstring("<a>x<b>y</b>z</a>")) == "xz"
