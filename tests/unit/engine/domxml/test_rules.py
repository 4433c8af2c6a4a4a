"""Files of rules: what is taken, and what an error says of the rest."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domxml.rules import KINDS, RULES_MAX, RULES_SIZE_MAX, parse_rules
from engine.errors import DomainXmlError

EXAMPLES = Path(__file__).resolve().parents[4] / "examples" / "dxml"
DOCUMENTATION = EXAMPLES.parents[1] / "docs" / "DXML.md"

WRONG = {
    "[[disk]": "rules.toml: no TOML: ",
    "disks = 1": "unknown key 'disks', want one of disk, interface",
    "[[disk]]": "rules.toml, [[disk]] number 1: it changes nothing, want a replace beside",
    "disk = 5": "rules.toml: disk = 5, want a table, [[disk]]",
    "[disk]\nsauce = 'a'": "[disk]: unknown key 'sauce', want one of source, ",
    "[[disk]]\nset = {file='/a'}\n[[disk]]\nset = {files='/a'}":
        "[[disk]] number 2: unknown key 'set.files', want one of set.type, ",
    "[[disk]]\nsource = 5.5": "key source is 5.5, want a text, or a table of one of exact, prefix, regex",
    "[[disk]]\nsource = {}": "key source is 'an empty table', want one of exact, prefix, regex",
    "[[disk]]\nsource = {exact='a', prefix='b'}": "key source is 'exact, prefix', want one of exact",
    "[[disk]]\nsource = {prefix='b', with='c'}": "key source is 'prefix, with', want one of",
    "[[disk]]\nsource = {prefix=''}": "key source is prefix '', want a text that is not empty",
    "[[disk]]\nsource = {prefix='b', replace=1}": "key source is replace 1, want a text",
    "[[disk]]\nsource = {regex='(', replace='c'}": "key source is regex '(' (missing ), unterminated",
    "[[disk]]\nsource = {regex='(?P<a>.)', replace='{b}'}":
        "key source is {b} in '{b}', want a named group of the regex: {a}",
    "[[disk]]\nsource = {regex='(?P<a>.)', replace='{'}": "want braces in pairs",
    "[[disk]]\nsource = {regex='(?P<a>.)', replace='{a!r}'}": "want nothing but a group's name in braces",
    "[[disk]]\nsource = {regex='(?P<a>.)', replace='{a.b}'}": "{a.b} in '{a.b}', want a named group",
    '[[disk]]\nsource = {prefix="a\\u0000"}': "character '\\x00' in 'a\\x00', want text without such",
    '[[disk]]\nset = {file="a\\n"}': "key set.file is character '\\n' in",
    "[[disk]]\ntarget = {prefix='v', replace='w'}": "key target is replace, want it where",
    "[[disk]]\nset = {file=''}": "key set.file is '', want a text",
    "[[disk]]\nset = {port=0}": "key set.port is 0, want a number from 1 to 65535",
    "[[disk]]\nset = {cache='much'}": "key set.cache is 'much', want one of default, none,",
    "[[disk]]\nset = {file='/a', dev='/b'}": "key set is file, dev, want the keys of one type of source",
    "[[disk]]\nset = {type='block', file='/a'}": "want type 'file'",
    "[[disk]]\nset = {type='network', name='a'}":
        'key set is type = "network" without protocol, want all of protocol, name',
    "[[disk]]\nset = 1": "set is 1, want a table, such as { type = ... }",
    "[[disk]]\nremove = true": "remove = true, want it on [[seclabel]] only; the guest would see it",
    "[[disk]]\nset = {file='/a'}\noptional = 1": "optional is 1, want true or false",
    "[[interface]]\nsource = 'default'": "key source is 'default', want a table of network, bridge,",
    "[[interface]]\nsource = {net='default'}": "unknown key 'source.net', want one of source.network",
    "[[interface]]\nset = {type='bridge'}": 'key set is type = "bridge" alone, want bridge, too',
    "[[interface]]\nset = {type='hostdev'}": "want one of network, bridge, direct, user, ethernet",
    "[[interface]]\nset = {mac='52:54:00:00:00:01'}": "unknown key 'set.mac'",
    "[[graphics]]\nset = {passwd='x'}": "unknown key 'set.passwd', want one of set.listen",
    "[[graphics]]\npasswd = 'x'": "unknown key 'passwd'",
    "[[graphics]]\nset = {port='5901'}": "key set.port is '5901', want a number from 1 to 65535, or \"auto\"",
    "[[hostdev]]\npci = '3'": "key pci is '3', want a word such as 0000:03:00.0, as lspci -D prints it",
    "[[hostdev]]\nset = {mdev='x'}": "key set.mdev is 'x', want the UUID of a mediated device",
    "[[hostdev]]\nset = {pci='03:00.0', usb='1:2'}": "key set is pci, usb, want one of them",
    "[[serial]]\nset = {type='tcp', host='a'}": "without mode, service, want all of mode, host, service",
    "[[serial]]\nset = {type='pty', path='/a'}": 'key set is type = "pty" with path, want keys of that type',
    "[[serial]]\nset = {log_append=true}": "key set is log_append alone, want log, too",
    "[[seclabel]]\nremove = true\nset = {type='none'}": "beside new values, want one of the two",
    "on_crash = 'explode'": "rules.toml, on_crash: is 'explode', want one of destroy, restart, preserve,",
    "on_reboot = 'coredump-destroy'": "rules.toml, on_reboot: is 'coredump-destroy', want one of",
    "a = " + "[" * 5000: "no TOML",
    "a = " + "9" * 5000: "no TOML",
    f"# {'x' * RULES_SIZE_MAX}": f"bytes of rules, want at most {RULES_SIZE_MAX}",
    "[[emulator]]\npath = {prefix = '/', replace = '/'}\n" * (RULES_MAX + 1): f"want at most {RULES_MAX}",
    "[[disk]]\nsource = '" + "a" * 1025 + "'": "key source is 1025 characters, want at most 1024",
    "[[disk]]\nset = {file='\ud800'}": "key set.file is character '\\ud800' in",
}  # fmt: skip


@pytest.mark.parametrize("text", sorted(WRONG), ids=range(len(WRONG)))
def test_a_wrong_rule_is_named_with_what_is_and_what_should_be(text: str) -> None:
    """File, rule, key, value; on one line, short, exit code 10."""
    with pytest.raises(DomainXmlError) as caught:
        parse_rules(text, where="rules.toml")

    message = str(caught.value)
    assert message.startswith("rules.toml")
    assert WRONG[text] in message
    assert "\n" not in message
    assert len(message) < 700
    assert caught.value.exit_code == 10


def test_a_likely_key_is_proposed() -> None:
    """People mistype."""
    with pytest.raises(DomainXmlError, match=r"did you mean optional\?"):
        parse_rules("[[disk]]\noptoinal = true", where="rules.toml")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_taken(path: Path) -> None:
    """What the documentation shows is a file of rules."""
    rules = parse_rules(path.read_text(), where=path.name)

    assert rules.where == path.name
    assert rules.rules


def test_an_empty_file_is_no_rules() -> None:
    """Nothing to do is nothing wrong."""
    assert parse_rules("# nothing\n", where="rules.toml").rules == ()


def test_one_table_needs_no_second_bracket() -> None:
    """[emulator] and [[emulator]] are the same, but for the name."""
    one, several = (
        parse_rules(f"{head}\nset = {{path = '/a'}}", where="r") for head in ("[emulator]", "[[emulator]]")
    )

    assert (one.rules[0].name, several.rules[0].name) == ("[emulator]", "[[emulator]] number 1")
    assert one.rules[0].values == several.rules[0].values


@given(
    st.sampled_from(sorted(KINDS)),
    st.dictionaries(
        st.sampled_from(["source", "set", "optional", "remove", "path", "listen", "type", "port", "x"]),
        st.recursive(
            st.text(max_size=4) | st.integers(-2, 70000) | st.booleans(),
            lambda inner: st.dictionaries(
                st.sampled_from(["exact", "prefix", "regex", "replace", "file", "type", "network", "port"]),
                inner,
                max_size=3,
            ),
            max_leaves=4,
        ),
        max_size=4,
    ),
)
def test_any_table_is_rules_or_refused(kind: str, table: dict[str, object]) -> None:
    """Nothing but our error comes out, whatever goes in."""
    text = f"[[{kind}]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
    try:
        rules = parse_rules(text, where="rules.toml")
    except DomainXmlError:
        return
    assert len(rules.rules) == 1


@given(st.text(max_size=200))
def test_any_text_is_rules_or_refused(text: str) -> None:
    """Nothing but our error comes out, whatever goes in."""
    with suppress(DomainXmlError):
        parse_rules(text, where="rules.toml")


def toml(value: object) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(f"\\U{ord(char):08x}" for char in str(value)) + '"'


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL))
def test_documentation_shows_rules_that_are_taken(block: str) -> None:
    """Each block of it is a whole file."""
    assert parse_rules(block, where="docs/DXML.md").rules


def test_documentation_names_every_key() -> None:
    """A key that nobody can find is of no use."""
    words = set(re.findall(r"[a-z_]+", DOCUMENTATION.read_text()))

    for kind in KINDS.values():
        missing = {part for key in (*kind.keys, *kind.settings) for part in key.split(".")} - words
        assert not missing, kind.name
