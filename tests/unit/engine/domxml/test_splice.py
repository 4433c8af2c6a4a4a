"""Edits of domain XML in its text: what is not edited stays, to the character."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lxml import etree

from engine.domxml.document import parse_domain_xml
from engine.domxml.edit.draft import Draft
from engine.domxml.edit.layout import read_layout
from engine.domxml.edit.place import Place, place_of
from engine.domxml.edit.splice import splice
from engine.errors import DomainXmlError
from tests.data.domain_texts import VALUES, domain_texts

NEW_VALUES = st.none() | VALUES.filter(str.strip)


def draft_of(text: str) -> Draft:
    """Return a draft of a text, without wishes."""
    return Draft(layout=read_layout(text, where="dxml"), where="rules.toml")


def canonical(element: etree._Element) -> bytes:
    """Return what an element says, however it is spelled; white space around text does not count."""
    for one in element.iter():
        one.text = (one.text or "").strip(" \t\r\n")
        one.tail = (one.tail or "").strip(" \t\r\n")
    return etree.tostring(element, method="c14n2")


@given(domain_texts(), st.data())
def test_text_and_tree_are_edited_alike(text: str, data: st.DataObject) -> None:
    """Whatever is wished, the new text says what the tree says with the same wishes."""
    draft = draft_of(text)
    elements = list(draft.layout.elements)
    for element in data.draw(st.lists(st.sampled_from(elements), max_size=6)):
        attribute = data.draw(st.sampled_from(["file", "dev", None]))
        if attribute is None and len(element):
            # Text between elements is nothing that any rule edits.
            continue
        place = Place(element=element, attribute=attribute)
        draft.values[place] = data.draw(NEW_VALUES)
        draft._rules[place] = "rule"
    for element in data.draw(st.lists(st.sampled_from(elements[1:]), max_size=2)) if elements[1:] else ():
        draft.remove(element, rule="rule")
    draft.settle()

    new = parse_domain_xml(splice(draft), where="new")

    for place, value in draft.values.items():
        edit_tree(place, value)
    for element in draft.removed:
        remove_from_tree(element)
    assert canonical(new) == canonical(draft.layout.root)


def edit_tree(place: Place, value: str | None) -> None:
    """Do to the tree what the draft wishes of the text."""
    if place.attribute is None:
        for child in place.element:
            child.tail = None
        place.element.text = value
    elif value is None:
        place.element.attrib.pop(place.attribute, None)
    else:
        place.element.set(place.attribute, value)


def remove_from_tree(element: etree._Element) -> None:
    """Take an element out, and leave the text behind it."""
    parent, before = element.getparent(), element.getprevious()
    assert parent is not None
    if before is not None:
        before.tail = (before.tail or "") + (element.tail or "")
    else:
        parent.text = (parent.text or "") + (element.tail or "")
    parent.remove(element)


@given(domain_texts(), VALUES, st.data())
def test_only_the_value_makes_way(text: str, value: str, data: st.DataObject) -> None:
    """Before and behind the value nothing moves: no quote, no space, no comment."""
    draft = draft_of(text)
    places = [
        (element, str(name))
        for element in draft.layout.elements
        for name in element.attrib
        if not str(name).startswith("{") and element.get(name) != value
    ]
    assume(places)
    element, name = data.draw(st.sampled_from(places))
    draft.put(place_of(element, f"@{name}"), value, rule="rule")
    draft.settle()

    new = splice(draft)

    attribute = draft.layout.attribute_of(element, name)
    assert attribute is not None
    assert new.startswith(text[: attribute.value_start])
    assert new.endswith(text[attribute.value_end :])
    ends = attribute.value_start + len(text) - attribute.value_end
    assert new[attribute.value_start : len(new) - len(text) + attribute.value_end].count("<") == 0
    assert len(new) >= ends


@given(domain_texts())
def test_a_draft_without_wishes_is_the_text(text: str) -> None:
    """Not one character is written anew."""
    draft = draft_of(text)
    for element in draft.layout.elements:
        for name, value in element.attrib.items():
            if not str(name).startswith("{"):
                draft.put(place_of(element, f"@{name!s}"), str(value), rule="rule")
    draft.settle()

    assert draft.values == {}
    assert splice(draft) == text


@pytest.mark.parametrize(
    ("old", "path", "value", "new"),
    [
        ("<domain><a/></domain>", "a/@x", "1", "<domain><a x='1'/></domain>"),
        ('<domain><a y="2" /></domain>', "a/@x", "'\"", "<domain><a y=\"2\" x=\"'&#34;\" /></domain>"),
        ("<domain><a></a></domain>", "a/text()", "<&>", "<domain><a>&lt;&amp;&gt;</a></domain>"),
        ("<domain><a/></domain>", "a/text()", "x", "<domain><a>x</a></domain>"),
        ("<domain><a> <!--c--> x </a></domain>", "a/text()", "y", "<domain><a> <!--c--> y </a></domain>"),
        ("<domain><a>x<!--c-->y</a></domain>", "a/text()", "z", "<domain><a>z<!--c--></a></domain>"),
        ("<domain><a><![CDATA[x]]></a></domain>", "a/text()", "]]>", "<domain><a>]]&gt;</a></domain>"),
        ("<domain><a>x</a></domain>", "a/text()", None, "<domain><a></a></domain>"),
        ("<domain><a x = '1'  y='2'/></domain>", "a/@x", None, "<domain><a  y='2'/></domain>"),
        ("<domain/>", "a/b/@x", "1", "<domain><a><b x='1'/></a></domain>"),
        ("<domain>\n  <a>\n    <b/>\n  </a>\n</domain>", "a/c/@x", "1",
         "<domain>\n  <a>\n    <b/>\n    <c x='1'/>\n  </a>\n</domain>"),
        ("<domain>\r\n\t<a/>\r\n</domain>", "a/c/@x", "1",
         "<domain>\r\n\t<a>\r\n\t  <c x='1'/>\r\n\t</a>\r\n</domain>"),
        ("<domain>\n  <a>\n    <!-- c -->\n  </a>\n</domain>", "a/c/text()", "1",
         "<domain>\n  <a>\n    <!-- c -->\n    <c>1</c>\n  </a>\n</domain>"),
        ("<domain>\n  <a></a>\n</domain>", "a/c/d/@x", "1",
         "<domain>\n  <a>\n    <c>\n      <d x='1'/>\n    </c>\n  </a>\n</domain>"),
        ("<domain><a x='1\t2'/></domain>", "a/@x", "1\t\n\r2", "<domain><a x='1&#9;&#10;&#13;2'/></domain>"),
    ],
)  # fmt: skip
def test_spelling_of_what_is_new(old: str, path: str, value: str | None, new: str) -> None:
    """New parts look like their neighbours; all that may be misread is escaped."""
    draft = draft_of(old)
    draft.put(place_of(draft.layout.root, path), value, rule="rule")
    draft.settle()

    assert splice(draft) == new
    assert place_of(parse_domain_xml(new, where="new"), path).value == value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<domain>\n  <a/>\n  <b/>\n</domain>", "<domain>\n  <b/>\n</domain>"),
        ("<domain>\r\n\t<a>x</a>\r\n</domain>", "<domain>\r\n</domain>"),
        ("<domain><a/><b/></domain>", "<domain><b/></domain>"),
        ("<domain>text <a/> more</domain>", "<domain>text  more</domain>"),
    ],
)
def test_a_removed_element_takes_its_line_along(old: str, new: str) -> None:
    """No empty line is left, and nothing else goes."""
    draft = draft_of(old)
    draft.remove(draft.layout.root[0], rule="rule")

    assert splice(draft) == new


def test_two_wishes_for_one_place_are_refused() -> None:
    """The same wish twice is one; what goes cannot be given a value by another."""
    draft = draft_of("<domain><a x='1'><b/></a></domain>")
    place = place_of(draft.layout.root, "a/@x")
    draft.put(place, "2", rule="one")
    draft.put(place, "2", rule="two")

    with pytest.raises(
        DomainXmlError, match=r"rules.toml: /domain/a\[1\]/@x: one makes it '2' and three"
    ) as caught:
        draft.put(place, "3", rule="three")
    assert caught.value.exit_code == 10
    draft.remove(draft.layout.root[0], rule="four")
    with pytest.raises(DomainXmlError, match="four makes it nothing and one makes it '2'"):
        draft.settle()


def test_a_change_names_its_rule_and_hides_secrets() -> None:
    """Also where a whole element goes."""
    draft = draft_of(
        "<domain><graphics passwd='s3cret'/>"
        "<source><cookies><cookie name='a'>s3cret</cookie></cookies></source></domain>"
    )
    for element in draft.layout.root:
        draft.remove(element, rule="rule 1")
    draft.settle()

    changes = draft.list_changes()

    assert {change.rule for change in changes} == {"rule 1"}
    assert [change.xpath for change in changes] == ["/domain/graphics[1]", "/domain/source[1]"]
    assert "s3cret" not in repr(changes)
