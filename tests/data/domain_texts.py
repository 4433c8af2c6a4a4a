"""Make texts of domain XML as people, programs and libvirt write them: one tree, many spellings."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

#: Any character that XML can hold in a value, with those that have to be escaped more often.
VALUES: Final = st.text(
    st.one_of(
        st.sampled_from("&<>'\" /:-"),
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"),
    ),
    max_size=12,
)
NAMES: Final = st.sampled_from(["disk", "source", "target", "driver", "qemu:arg", "entry"])
KEYS: Final = st.sampled_from(["file", "dev", "type", "qemu:x", "index"])
_SPACES: Final = st.sampled_from(["", " ", "\n  ", "\r\n\t"])
_TIGHT: Final = st.sampled_from([" ", "  ", "\n"])
_COMMENTS: Final = st.sampled_from(["<!-- <disk file='x'> & -->", "<!---->", "<?pi <a>?>", ""])


@st.composite
def _spelled(draw: st.DrawFn, value: str, quote: str) -> str:
    """Return a value in one of its spellings between two such quotes, or between tags."""
    pieces = []
    for char in value:
        if char in {"&", "<", ">", quote} or draw(st.integers(0, 9)) == 0:
            pieces.append(draw(st.sampled_from([f"&#{ord(char)};", f"&#x{ord(char):x};"])))
        else:
            pieces.append(char)
    return "".join(pieces)


@st.composite
def _tags(draw: st.DrawFn, name: str) -> str:
    text = f"<{name}"
    for key, value in draw(st.dictionaries(KEYS, VALUES, max_size=3)).items():
        quote = draw(st.sampled_from("'\""))
        equals = draw(st.sampled_from(["=", " = "]))
        text += f"{draw(_TIGHT)}{key}{equals}{quote}{draw(_spelled(value, quote))}{quote}"
    return text + draw(_SPACES)


@st.composite
def _texts(draw: st.DrawFn) -> str:
    value = draw(VALUES)
    if draw(st.booleans()) and "]]>" not in value:
        return f"<![CDATA[{value}]]>"
    return draw(_spelled(value, ""))


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    """Return the text of one element."""
    name = draw(NAMES)
    tag = draw(_tags(name))
    if draw(st.booleans()):
        return f"{tag}/>"
    inside = draw(_SPACES)
    for piece in draw(st.lists(elements(depth=depth - 1), max_size=3)) if depth else ():
        inside += draw(_COMMENTS) + piece + draw(_SPACES)
    if not depth or draw(st.booleans()):
        inside += draw(_texts()) + draw(_COMMENTS)
    return f"{tag}>{inside}</{name}{draw(_SPACES)}>"


@st.composite
def domain_texts(draw: st.DrawFn) -> str:
    """Return the text of a whole document."""
    begin = draw(
        st.sampled_from(
            [
                "",
                "\ufeff",
                "<?xml version='1.0' encoding='UTF-8'?>\n",
                '<?xml version="1.0"?>',
                "<!-- > -->\r\n",
            ]
        )
    )
    tag = draw(_tags("domain"))
    children = "".join(draw(_SPACES) + child for child in draw(st.lists(elements(), max_size=4)))
    return f"{begin}{tag} xmlns:qemu='urn:qemu'>{children}</domain>{draw(_SPACES)}"
