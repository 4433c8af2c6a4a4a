"""Hide the passwords in a text of domain XML and leave every other character where it is."""

from __future__ import annotations

from engine.domxml.edit.draft import Draft
from engine.domxml.edit.layout import read_layout
from engine.domxml.edit.place import place_of
from engine.domxml.edit.splice import splice
from engine.domxml.facts import HIDDEN


def hide_in_text(xml: str, *, where: str) -> str:
    """Return domain XML with HIDDEN where a password or a cookie of a disk stands.

    Raises:
        DomainXmlError: no domain XML.
    """
    draft = Draft(layout=read_layout(xml, where=where), where=where)
    for graphics in draft.layout.root.iter("graphics"):
        if graphics.get("passwd") is not None:
            draft.put(place_of(graphics, "@passwd"), HIDDEN, rule="")
    for cookie in draft.layout.root.iter("cookie"):
        draft.put(place_of(cookie, "text()"), HIDDEN, rule="")
    draft.settle()
    return splice(draft)
