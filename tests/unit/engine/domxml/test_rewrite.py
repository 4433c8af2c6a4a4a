"""Rewriting by rules: each kind of rule, what it leaves alone, and when it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from engine.domxml.changes import list_changes
from engine.domxml.document import parse_domain_xml
from engine.domxml.edit.draft import WISHES_MAX, RuleChange
from engine.domxml.rewrite import Rewrite, rewrite, rule_of
from engine.domxml.rules import parse_rules
from engine.errors import AbiError, DomainXmlError
from tests.data.domain_texts import domain_texts

SECRET = "s3cret"  # noqa: S105 - to be looked for


def run(xml: str, rules: str) -> Rewrite:
    """Rewrite a text by the text of rules."""
    return rewrite(xml, parse_rules(rules, where="rules.toml"), where="web-1.xml")


def devices(text: str) -> str:
    """Return a domain with these devices."""
    return f"<domain type='kvm'><name>web-1</name><devices>{text}</devices></domain>"


def read_cases() -> dict[str, tuple[str, str, str]]:
    """Return the name of each case -> devices before, rules, devices after."""
    text = (Path(__file__).resolve().parents[3] / "data" / "rewrite_cases.txt").read_text()
    cases = {}
    for block in text.split("=== ")[1:]:
        name, _, rest = block.partition("\n")
        old, rules, new = re.split("--- (?:rules|becomes)\n", rest.rstrip() + "\n")
        cases[name] = old, rules, new
    return cases


CASES = read_cases()


@pytest.mark.parametrize("name", sorted(CASES))
def test_each_rule_changes_what_it_says_and_nothing_else(name: str) -> None:
    """The new text is given in full; each change names the rule and the place."""
    old, rules, new = CASES[name]

    done = run(devices(old), rules)

    assert done.xml == devices(new)
    assert SECRET not in repr(done.changes)
    assert all(change.rule.startswith("[") for change in done.changes)
    assert bool(done.changes) == (old != new)


def test_lines_for_events() -> None:
    """An event that the XML does not name is added to it."""
    done = run(
        "<domain>\n  <on_crash>destroy</on_crash>\n  <devices/>\n</domain>",
        "on_crash = 'preserve'\non_reboot = 'restart'",
    )

    assert done.xml == (
        "<domain>\n  <on_crash>preserve</on_crash>\n  <devices/>\n  <on_reboot>restart</on_reboot>\n</domain>"
    )
    assert [change.rule for change in done.changes] == ["on_reboot", "on_crash"]


def test_security_label_goes_with_its_line() -> None:
    """And what libvirt derived from a label goes when the label changes."""
    xml = (
        "<domain>\n  <seclabel model='dac'/>\n  <seclabel model='selinux'>\n    <label>a</label>\n"
        "    <imagelabel>b</imagelabel>\n  </seclabel>\n</domain>"
    )

    removed = run(xml, "[[seclabel]]\nmodel = 'dac'\nremove = true")
    labelled = run(xml, "[[seclabel]]\nlabel = {exact = 'a', replace = 'c'}")

    assert removed.xml == xml.replace("  <seclabel model='dac'/>\n", "")
    assert removed.changes == (
        RuleChange(
            rule="[[seclabel]] number 1", xpath="/domain/seclabel[1]", old='<seclabel model="dac"/>', new=None
        ),
    )
    assert labelled.xml == xml.replace("a</label>\n    <imagelabel>b</imagelabel>", "c</label>")


ONE_DISK = devices("<disk type='file'><source file='/a/x'/><target dev='vda' bus='virtio'/></disk>")


def test_a_rule_that_matches_nothing_is_an_error_unless_optional() -> None:
    """It names the rule, and what was searched."""
    rule = "[[disk]]\nset = {cache = 'none'}\n[[disk]]\ntarget = 'vdb'\nset = {file = '/b'}\n"

    with pytest.raises(
        DomainXmlError, match=r"rules.toml, \[\[disk\]\] number 2: matches nothing in web-1.xml"
    ) as caught:
        run(ONE_DISK, rule)
    assert caught.value.exit_code == 10
    assert "optional = true" in caught.value.hint
    assert run(ONE_DISK, rule + "optional = true").xml.count("cache='none'") == 1


def test_a_rule_that_finds_everything_right_matches() -> None:
    """A second run over the result changes nothing, and is no error."""
    rule = "[[disk]]\nset = {file = '/b'}"
    once = run(ONE_DISK, rule)

    again = run(once.xml, rule)

    assert (again.xml, again.changes) == (once.xml, ())


@pytest.mark.parametrize(
    "rules",
    [
        "[[disk]]\nset = {file = '/b'}\n[[disk]]\nsource = {prefix = '/a', replace = '/c'}",
        "[[disk]]\nset = {file = '/b'}\n[[disk]]\nset = {dev = '/c'}",
        "[[disk]]\nset = {format = 'raw'}\n[[disk]]\nset = {format = 'qcow2'}",
    ],
)
def test_two_rules_that_fight_are_both_named(rules: str) -> None:
    """Whichever came first in the file must not decide."""
    with pytest.raises(DomainXmlError) as caught:
        run(ONE_DISK, rules)

    assert "[[disk]] number 1 makes it " in str(caught.value)
    assert "[[disk]] number 2 makes it " in str(caught.value)
    assert "/domain/devices[1]/disk[1]" in str(caught.value)
    assert caught.value.exit_code == 10


def test_two_rules_that_agree_are_one() -> None:
    """The first is named."""
    rules = "[[disk]]\nset = {file = '/b/x'}\n[[disk]]\nsource = {prefix = '/a', replace = '/b'}"

    (change,) = run(ONE_DISK, rules).changes

    assert (change.rule, change.old, change.new) == ("[[disk]] number 1", "/a/x", "/b/x")
    assert change.xpath == "/domain/devices[1]/disk[1]/source[1]/@file"


def test_rules_do_not_see_each_other() -> None:
    """/a becomes /b and /b becomes /c, and nothing goes all the way."""
    disks = "<disk type='file'><source file='/a/x'/></disk><disk type='file'><source file='/b/x'/></disk>"
    rule = "[[disk]]\nsource = {{prefix = '{}', replace = '{}'}}\n"

    done = run(devices(disks), rule.format("/a/", "/b/") + rule.format("/b/", "/c/"))

    assert done.xml == devices(disks.replace("/b/", "/c/").replace("/a/", "/b/"))


@pytest.mark.parametrize(
    ("device", "rules", "sentence"),
    [
        ("<hostdev type='usb'><source/></hostdev>", "[[hostdev]]\nset = {pci = '03:00.0'}",
         "/domain/devices[1]/hostdev[1]: a host device of type usb, want pci for pci"),
        ("<serial type='pty'/>", "[[serial]]\nset = {path = '/a'}", "of a serial of type pty, want type"),
        ("<disk type='file'><source file='/a'/></disk>",
         "[[disk]]\nsource = {regex = '.*', replace = ''}", "a new value of 0 characters, want 1 to 4096"),
        (f"<disk type='file'><source file='{'a' * 5000}'/></disk>",
         "[[disk]]\nsource = {prefix = 'a', replace = 'b'}", "5000 characters, want at most 4096"),
        (f"<disk type='file'><source file='{'a' * 4000}'/></disk>",
         "[[disk]]\nsource = {regex = '(?P<a>.*)', replace = '{a}{a}'}", "a new value of 8000 characters"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_followed_names_place_and_rule(device: str, rules: str, sentence: str) -> None:
    """Nothing is changed by half."""
    with pytest.raises(DomainXmlError) as caught:
        run(devices(device), rules)

    assert sentence in str(caught.value)
    assert str(caught.value).startswith("rules.toml, [[")


def test_a_device_passed_through_cannot_become_a_plug() -> None:
    """The guest would see another device: exit code 11."""
    with pytest.raises(AbiError, match="an interface of type hostdev cannot become") as caught:
        run(devices("<interface type='hostdev'/>"), "[[interface]]\nset = {network = 'default'}")

    assert caught.value.exit_code == 11


@dataclass(frozen=True)
class Seen:
    """A difference as a comparison reports it."""

    xpath: str
    old: str | None
    new: str | None
    guest_visible: bool


def test_what_the_guest_would_see_is_refused_by_the_rule_that_made_it() -> None:
    """The comparison is given both trees; an allowed difference passes."""
    rules = parse_rules("[[disk]]\nset = {cache = 'none'}\n[[disk]]\nset = {file = '/b'}", where="rules.toml")
    given: list[tuple[str | None, str | None]] = []
    is_visible = False

    def check(old: etree._Element, new: etree._Element) -> Iterable[Seen]:
        given.append(tuple(root.xpath("string(devices/disk/source/@file)") for root in (old, new)))  # type: ignore[arg-type]
        return [Seen("/domain/devices/disk/source/@file", "/a/x", "/b", is_visible)]

    assert rewrite(ONE_DISK, rules, where="web-1.xml", check=check).changes
    is_visible = True
    with pytest.raises(AbiError) as caught:
        rewrite(ONE_DISK, rules, where="web-1.xml", check=check)

    assert given == [("/a/x", "/b")] * 2
    assert str(caught.value).startswith(
        "rules.toml, [[disk]] number 2: /domain/devices/disk/source/@file would be '/b', want '/a/x'"
    )


def test_rule_of_a_path() -> None:
    """The same place, one around it, one inside of it; numbers of the first may be left out."""
    changes = [RuleChange(rule="one", xpath="/domain/devices[1]/disk[2]/source[1]/@file", old="a", new="b")]

    assert rule_of(changes, "/domain/devices/disk[2]/source/@file") == "one"
    assert rule_of(changes, "/domain/devices[1]/disk[2]") == "one"
    assert rule_of(changes, "/domain/devices[1]/disk[2]/source[1]/@file") == "one"
    assert rule_of(changes, "/domain/devices/disk/source/@file") is None
    assert rule_of(changes, "/domain/devices[1]/disk[21]") is None


@given(domain_texts())
def test_no_rule_that_matches_is_the_text(text: str) -> None:
    """Not a character is written anew."""
    rules = "[[disk]]\nset = {file = '/b'}\noptional = true\n[emulator]\nset = {path = '/q'}\noptional = true"

    for some in ("", rules):
        done = run(text, some)
        assert (done.xml, done.changes) == (text, ())


@given(
    st.lists(st.sampled_from([case for case in CASES.values() if case[0] != case[2]]), max_size=4), st.data()
)
def test_changes_are_all_that_differs(cases: list[tuple[str, str, str]], data: st.DataObject) -> None:
    """Whatever stands between: the changes and a comparison of both trees name the same places."""
    gaps = st.sampled_from(["", "\n  ", "<!-- <disk> -->", "\r\n\t"])
    old = devices("".join(data.draw(gaps) + case[0] + data.draw(gaps) for case in cases))
    rules = data.draw(st.sampled_from([case[1] for case in cases])) if cases else ""
    try:
        done = run(old, rules)
    except (DomainXmlError, AbiError):
        # It met a device of another case that it cannot be for.
        return

    seen = list_changes(parse_domain_xml(old, where="old"), parse_domain_xml(done.xml, where="new"))

    assert all(rule_of(done.changes, change.xpath) for change in seen)
    assert bool(seen) == bool(done.changes)


def test_a_document_of_very_many_elements_is_not_rewritten() -> None:
    """What a rule may cost is bounded; nobody's domain has so many disks."""
    disks = "<disk/>" * (WISHES_MAX // 2 + 1)

    with pytest.raises(DomainXmlError, match=f"{WISHES_MAX} places that change, want fewer"):
        run(devices(disks), "[[disk]]\nset = {cache = 'none', io = 'native'}")
