"""Passwords in a text of domain XML."""

from hypothesis import given

from engine.domxml.facts import HIDDEN
from engine.domxml.secrets import hide_in_text
from tests.data.domain_texts import domain_texts


def test_passwords_and_cookies_are_hidden_and_nothing_else() -> None:
    """Quotes and spaces stay: a diff of two such texts shows what differs, less the secrets."""
    text = (
        "<domain><graphics passwd = \"a&quot;b\"  port='1'/><graphics passwd=''/><graphics/>"
        "<cookie name='n'>a<!-- b --></cookie></domain>"
    )

    assert hide_in_text(text, where="x") == (
        f"<domain><graphics passwd = \"{HIDDEN}\"  port='1'/><graphics passwd='{HIDDEN}'/><graphics/>"
        f"<cookie name='n'>{HIDDEN}<!-- b --></cookie></domain>"
    )


@given(domain_texts())
def test_text_without_secrets_stays(text: str) -> None:
    """Not a character is written anew."""
    assert hide_in_text(text, where="x") == text
