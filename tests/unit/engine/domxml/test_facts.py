"""What the domain XML says of the machine, and where it holds passwords."""

import pytest
from lxml import etree

from engine.domxml.facts import has_hidden_secrets, has_secrets, hide_secrets, machine_facts

GRAPHICS = (
    "<domain><devices><graphics type='{}' passwd='s3cret' passwdValidTo='2030-01-01'/></devices></domain>"
)


@pytest.mark.parametrize(
    ("memory", "wanted"),
    [
        ("<memory>1024</memory>", 2**20),
        ("<memory unit='KiB'>1024</memory>", 2**20),
        ("<memory unit='k'>1</memory>", 1024),
        ("<memory unit='MiB'> 3 </memory>", 3 * 2**20),
        ("<memory unit='GB'>2</memory>", 2 * 10**9),
        ("<memory unit='bytes'>7</memory>", 7),
        ("<memory unit='furlong'>7</memory>", None),
        ("<memory>much</memory>", None),
        ("<memory>\N{SUPERSCRIPT TWO}</memory>", None),
        ("<memory/>", None),
        ("", None),
    ],
)
def test_memory_is_bytes_whatever_its_unit(memory: str, wanted: int | None) -> None:
    """Units are libvirt's; what libvirt would refuse is not known."""
    assert machine_facts(etree.fromstring(f"<domain>{memory}</domain>")).memory_bytes == wanted


def test_machine_is_told_as_far_as_the_xml_says() -> None:
    """A CPU without a model is named by its mode; what is missing is empty."""
    full = machine_facts(
        etree.fromstring(
            "<domain><vcpu>4</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>"
            "<cpu mode='host-passthrough'/></domain>"
        )
    )
    empty = machine_facts(etree.fromstring("<domain/>"))

    assert (full.vcpus, full.machine, full.architecture, full.cpu) == (4, "q35", "x86_64", "host-passthrough")
    assert (empty.vcpus, empty.machine, empty.architecture, empty.cpu) == (None, "", "", "")


@pytest.mark.parametrize("kind", ["vnc", "spice"])
def test_hidden_passwords_are_recognised(kind: str) -> None:
    """Hiding takes the password and nothing else, and it can be seen that it was done."""
    root = etree.fromstring(GRAPHICS.format(kind))
    assert has_secrets(root)
    assert not has_hidden_secrets(root)

    hide_secrets(root)

    text = etree.tostring(root, encoding="unicode")
    assert "s3cret" not in text
    assert "passwdValidTo" in text
    assert has_hidden_secrets(root)
    assert not has_secrets(etree.fromstring("<domain><devices><graphics type='vnc'/></devices></domain>"))


def test_cookies_of_disks_are_secrets_too() -> None:
    """Whole, whatever stands inside; an element alone is hidden like a document."""
    xml = "<source><cookies><cookie name='s'>s3cret<!-- x -->more</cookie></cookies></source>"
    root = etree.fromstring(f"<domain><devices><disk>{xml}</disk></devices></domain>")
    cookie = etree.fromstring(xml).find("cookies/cookie")
    assert cookie is not None
    assert has_secrets(root)

    for element in (root, cookie):
        hide_secrets(element)
        text = etree.tostring(element, encoding="unicode")
        assert "s3cret" not in text
        assert "more" not in text
        assert "name=" in text
        assert has_hidden_secrets(element)
