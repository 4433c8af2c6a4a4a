"""Where everything in domain XML stands, whatever its spelling."""

import pytest
from hypothesis import given
from lxml import etree

from engine.domxml.edit.layout import Layout, read_layout
from engine.errors import DomainXmlError
from tests.data.domain_texts import domain_texts
from tests.unit.engine.domxml.test_document import HOSTILE


def read(text: str) -> Layout:
    """Return the layout of a text."""
    return read_layout(text, where="dxml")


@given(domain_texts())
def test_layout_and_tree_agree(text: str) -> None:
    """Each value of the tree stands where the layout says, in one of its spellings."""
    layout = read(text)

    for element in layout.elements:
        span = layout.span_of(element)
        assert text[span.start] == "<"
        assert text[span.end - 1] == ">"
        for name, value in element.attrib.items():
            if not str(name).startswith("{"):
                one = layout.attribute_of(element, str(name))
                assert one is not None
                assert text[one.start] in " \t\r\n"
                assert span.start < one.start < one.end <= span.attributes_end < span.open_end
                assert etree.fromstring(f"<x a={text[one.value_start - 1 : one.end]}/>").get("a") == value
        assert layout.attribute_of(element, "none") is None
        pieces = (text[start:end] for start, end in layout.texts_of(element))
        own = "".join(etree.fromstring(f"<x>{piece}</x>").text or "" for piece in pieces)
        assert own == "".join(piece or "" for piece in (element.text, *(child.tail for child in element)))


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_text_is_refused_before_it_is_looked_at(name: str) -> None:
    """Only what the parser has taken is scanned."""
    with pytest.raises(DomainXmlError):
        read(HOSTILE[name])


def test_paths_count_siblings_of_one_name() -> None:
    """As the list of changes prints them."""
    layout = read("<domain><a/><b><c/><c/></b><a/></domain>")

    assert [layout.xpath_of(element) for element in layout.elements] == [
        "/domain", "/domain/a[1]", "/domain/b[1]", "/domain/b[1]/c[1]", "/domain/b[1]/c[2]", "/domain/a[2]",
    ]  # fmt: skip
