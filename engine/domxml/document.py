"""Parse domain XML from anywhere without trusting it.

Source: https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from lxml import etree

from engine.errors import AbiError, DomainXmlError

#: Bytes; the largest domain XML seen in the field is below 1 MiB.
XML_SIZE_MAX: Final = 4 * 1024 * 1024
#: The largest has some thousands. Each costs some 400 bytes: a MiB of nothing else would take 100 MiB.
ELEMENTS_MAX: Final = 65536
#: Signs that begin or end a piece of markup, `<` and `=`, which can be counted without parsing: each may
#: cost 250 bytes. A domain with 1,000 disks and 1,000 network cards has 43,000.
MARKUP_MAX: Final = 2 * ELEMENTS_MAX
#: What a document may say of itself; ASCII is part of UTF-8.
_ENCODINGS: Final = frozenset({"UTF-8", "US-ASCII", "ASCII"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What names a domain inside its XML."""

    name: str
    #: None where the XML leaves it to libvirt.
    uuid: UUID | None


def parse_domain_xml(text: str, *, where: str) -> etree._Element:
    """Return the <domain> element of the text.

    Args:
        text: domain XML, at most XML_SIZE_MAX bytes; no DTD, no entities of its own.
        where: file or option that the text came from, named in errors.

    Raises:
        DomainXmlError: not well-formed, too large, with a DTD, or another root element.
    """
    return parse_xml(text, root="domain", where=where, hint="virsh dumpxml shows one")


def parse_xml(text: str, *, root: str, where: str, hint: str = "") -> etree._Element:
    """Return the root element of one of libvirt's documents, under the same rules as domain XML.

    Raises:
        DomainXmlError: not well-formed, too large, with a DTD, or another root element than wanted.
    """
    # A surrogate is left for the parser to refuse.
    data = text.encode(errors="surrogatepass")
    if len(data) > XML_SIZE_MAX:
        raise DomainXmlError(where, f"{len(data)} bytes of XML", f"at most {XML_SIZE_MAX}")
    markup = data.count(b"<") + data.count(b"=")
    if markup > MARKUP_MAX:
        raise DomainXmlError(where, f"{markup} signs of markup in the XML", f"at most {MARKUP_MAX}")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_blank_text=False
    )
    try:
        found = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise DomainXmlError(where, f"no well-formed XML: {error}", f"a <{root}> document", hint) from error
    document = found.getroottree().docinfo
    if document.doctype:
        raise DomainXmlError(where, "XML with a DTD", "none", "remove the <!DOCTYPE> line")
    if document.encoding and document.encoding.upper() not in _ENCODINGS:
        # The text was decoded before it came here: it would be decoded twice, and names would change.
        raise DomainXmlError(where, f"encoding {document.encoding}", "UTF-8", "remove it from the first line")
    elements = found.xpath("count(//*)")
    assert isinstance(elements, float)
    if elements > ELEMENTS_MAX:
        raise DomainXmlError(where, f"{elements:.0f} elements of XML", f"at most {ELEMENTS_MAX}")
    if found.tag != root:
        raise DomainXmlError(where, f"root element <{found.tag!s}>", f"<{root}>", hint)
    return found


def identity_of(root: etree._Element, *, where: str) -> Identity:
    """Return name and UUID of a <domain> element.

    Raises:
        DomainXmlError: no name, or a UUID that is none.
    """
    name = _text_of(root, "name")
    if not name:
        raise DomainXmlError(where, "domain XML without a <name>", "one <name>")
    text = _text_of(root, "uuid")
    try:
        return Identity(name=name, uuid=UUID(text) if text else None)
    except ValueError as error:
        raise DomainXmlError(where, f"uuid {text!r}", "a UUID") from error


def _text_of(root: etree._Element, name: str) -> str:
    """Return the text of the first child of a name as libvirt reads it: comments inside do not count."""
    return str(root.xpath(f"string({name})")).strip()


def check_same_domain(saved_xml: str, new_xml: str, *, where: str) -> None:
    """Refuse a dxml that belongs to another domain than the image.

    Raises:
        DomainXmlError: one of the two is no domain XML.
        AbiError: name or UUID differ.
    """
    saved = identity_of(
        parse_domain_xml(saved_xml, where="domain XML of the guest"), where="domain XML of the guest"
    )
    new = identity_of(parse_domain_xml(new_xml, where=where), where=where)
    if new.uuid is not None and new.uuid != saved.uuid:
        raise AbiError(
            where, f"/domain/uuid is {new.uuid}", str(saved.uuid), "dxml may change host-specific parts only"
        )
    if new.name != saved.name:
        raise AbiError(
            where, f"/domain/name is {new.name!r}", repr(saved.name), "dxml may not rename a domain"
        )
