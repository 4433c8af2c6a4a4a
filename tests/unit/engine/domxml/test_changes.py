from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from engine.domxml.changes import Change, list_changes

NAMES = st.sampled_from(["disk", "source", "target", "driver", "alias"])
VALUES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=6)


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> etree._Element:
    """Return a small element as domain XML has them: attributes and either text or children."""
    element = etree.Element(draw(NAMES), draw(st.dictionaries(NAMES, VALUES, max_size=2)))
    children = draw(st.lists(trees(depth=depth - 1), max_size=3)) if depth else []
    element.extend(children)
    if not children:
        element.text = draw(st.none() | VALUES)
    return element


def parse(text: str) -> etree._Element:
    """Return the element of a text."""
    return etree.fromstring(text)


@given(trees())
def test_equal_documents_have_no_changes(tree: etree._Element) -> None:
    """Nothing differs from itself, nor from itself read again with other spacing."""
    again = deepcopy(tree)
    etree.indent(again)

    assert list_changes(tree, deepcopy(tree)) == ()
    assert list_changes(tree, again) == ()


@given(trees(), st.data())
def test_every_change_of_one_value_is_listed(tree: etree._Element, data: st.DataObject) -> None:
    """One attribute or text that is altered, added or removed is one line, with both values and its place."""
    other = deepcopy(tree)
    element = data.draw(st.sampled_from(list(other.iter())))
    if len(element) == 0 and data.draw(st.booleans()):
        old, new = element.text, data.draw((st.none() | VALUES).filter(lambda text: text != element.text))
        element.text = new
        step = "/text()"
    else:
        name = data.draw(NAMES)
        old = element.get(name)
        new = data.draw((st.none() | VALUES).filter(lambda text: text != old))
        if new is None:
            del element.attrib[name]
        else:
            element.set(name, new)
        step = f"/@{name}"

    (change,) = list_changes(tree, other)

    assert (change.old, change.new) == (old, new)
    assert change.xpath.endswith(step)
    # The place leads to the element in the new document.
    assert other.getroottree().xpath(change.xpath.removesuffix(step)) == [element]


@given(trees(), st.data())
def test_every_element_added_or_removed_is_listed(tree: etree._Element, data: st.DataObject) -> None:
    """An element more is one line with the whole of it as new value, one less the same as old value."""
    other = deepcopy(tree)
    parent = data.draw(st.sampled_from(list(other.iter())))
    added = etree.SubElement(parent, "added", {"a": "1"})
    added.text = "b"

    (change,) = list_changes(tree, other)
    assert (change.old, change.new) == (None, '<added a="1">b</added>')
    (change,) = list_changes(other, tree)
    assert (change.old, change.new) == ('<added a="1">b</added>', None)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        pytest.param("<d a='1'/>", "<d a='2'/>", [("/d/@a", "1", "2")], id="attribute"),
        pytest.param("<d> x </d>", "<d>x</d>", [], id="space-around-text"),
        pytest.param("<d>x</d>", "<d/>", [("/d/text()", "x", None)], id="text-gone"),
        pytest.param("<d><!-- a --><e/></d>", "<d><e/></d>", [], id="comment"),
        pytest.param("<d><e/><f/></d>", "<d><f/><e/></d>", [], id="order-of-different-elements"),
        pytest.param(
            "<d><e a='1'/><e a='2'/></d>",
            "<d><e a='2'/><e a='1'/></d>",
            [("/d/e[1]/@a", "1", "2"), ("/d/e[2]/@a", "2", "1")],
            id="order-of-like-elements",
        ),
        pytest.param(
            "<d><n>old</n></d>",
            "<d><n><!-- c -->new</n></d>",
            [("/d/n[1]/text()", "old", "new")],
            id="text-behind-a-comment",
        ),
        pytest.param("<d><n>old</n></d>", "<d><n><!-- c -->old</n></d>", [], id="same-text-behind-a-comment"),
    ],
)
def test_changes_read_as_people_expect(
    old: str, new: str, changes: list[tuple[str, str | None, str | None]]
) -> None:
    """Places are XPaths of the new document; what carries no meaning is no change."""
    expected = tuple(Change(xpath=xpath, old=before, new=after) for xpath, before, after in changes)

    assert list_changes(parse(old), parse(new)) == expected
