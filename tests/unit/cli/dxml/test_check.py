"""fleetsave dxml check: what it prints and with which code it exits."""

import io
import json
import sys
from pathlib import Path

import pytest

from cli.main import main
from tests.data.image_files import OTHER_XML, XML, write_image, write_point

CARD = "<devices><interface type='user'><mac address='52:54:00:00:00:0{}'/></interface></devices></domain>"
DISPLAY = "<devices><graphics type='vnc' passwd='{}'/><video/></devices></domain>"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Give a file of the domain XML that a guest was saved with."""
    return write(tmp_path / "saved.xml", XML)


def write(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text)
    return path


def run(*words: str | Path) -> int:
    """Run the command line; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["dxml", "check", *map(str, words)])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_equal_documents(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit code 0."""
    assert run(saved, saved) == 0
    assert capsys.readouterr().out == "stable: no difference\n"


def test_what_is_allowed_is_told(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Place, both values and the reason; exit code 0."""
    assert run(saved, write(tmp_path / "new.xml", OTHER_XML)) == 0

    assert capsys.readouterr().out == (
        "allowed  /domain/on_crash[1]/text()\n"
        "         destroy -> restart: what the host does when the guest ends\n"
        "stable: 1 difference, none of which libvirt refuses\n"
    )


def test_what_is_refused_comes_first(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit code is that of another machine."""
    new = OTHER_XML.replace("qemu64", "Haswell").replace("</domain>", CARD.format(1))

    assert run(saved, write(tmp_path / "new.xml", new)) == 11

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["refused", "refused", "allowed", "NOT"]
    assert lines[0] == "refused  /domain/cpu[1]/model[1]/text()"
    assert lines[-1] == "NOT STABLE: the guest would notice 2 differences; 1 more allowed"


def test_json_holds_every_difference(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else is printed, and the code is the same."""
    assert run(saved, write(tmp_path / "new.xml", XML.replace("262144", "524288")), "--json") == 11

    assert json.loads(capsys.readouterr().out) == {
        "stable": False,
        "differences": [
            {
                "xpath": "/domain/memory[1]/text()",
                "new_xpath": "/domain/memory[1]/text()",
                "old": "262144",
                "new": "524288",
                "guest_visible": True,
                "reason": "the guest would have another amount of memory",
            },
            {
                "xpath": None,
                "new_xpath": None,
                "old": "262144",
                "new": "524288",
                "guest_visible": True,
                "reason": "the guest's balloon leaves it this much",
            },
        ],
    }
    assert run(saved, saved, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"stable": True, "differences": []}


def test_a_device_that_moved_is_named_in_both_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new place stands behind the old one."""
    one, two = ("<disk><source file='{}'/><target dev='vd{}' bus='virtio'/></disk>".format(*each)
                for each in (("/a", "a"), ("/b", "b")))  # fmt: skip
    old, new = (
        write(tmp_path / name, XML.replace("</domain>", f"<devices>{disks}</devices></domain>"))
        for name, disks in (("old.xml", one + two), ("new.xml", two.replace("/b", "/c") + one))
    )

    assert run(old, new) == 0
    assert "disk[2]/source[1]/@file (now /domain/devices[1]/disk[1]/source" in capsys.readouterr().out


def test_images_and_restore_points_stand_for_what_they_hold(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that a guest was saved with is in its image."""
    write_image(tmp_path / "a.save")
    write_point(tmp_path / "point")

    assert run(tmp_path / "a.save", saved) == 0
    assert run(tmp_path / "point", saved) == 0
    with (tmp_path / "a.save").open("r+b") as file:
        file.write(b"LibvirtQemudPart")
    assert run(tmp_path / "a.save", saved) == 12
    assert "its save never finished" in capsys.readouterr().err


def test_passwords_stay_in_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither people nor programs are told them."""
    write_image(tmp_path / "a.save", xml=XML.replace("</domain>", DISPLAY.format("s3cret")))
    new = write(tmp_path / "new.xml", XML.replace("</domain>", DISPLAY.format("hidden1")))

    assert run(tmp_path / "a.save", new) == 0
    assert run(tmp_path / "a.save", new, "--json") == 0

    out = capsys.readouterr().out
    assert "***** -> *****" in out
    assert "s3cret" not in out
    assert "hidden1" not in out


def test_either_may_come_from_standard_input(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As virsh prints it."""
    for words in (("-", saved), (saved, "-")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(OTHER_XML.encode())))
        assert run(*words) == 0
    assert capsys.readouterr().out.count("1 difference") == 2


@pytest.mark.parametrize(
    ("version", "code"), [("9.0", 0), ("11.3.0", 0), ("11.4.0", 11), ("eleven", 2), ("11", 2), ("1.2.3.4", 2)]
)
def test_libvirts_differ(tmp_path: Path, version: str, code: int) -> None:
    """From 11.4 on queues of network cards are compared; what is no version is refused."""
    card = "<devices><interface><driver queues='{}'/></interface></devices></domain>"
    old, new = (
        write(tmp_path / f"{queues}.xml", XML.replace("</domain>", card.format(queues))) for queues in (2, 4)
    )

    assert run(old, new, "--libvirt", version) == code


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"no xml", 10), (b"<guest/>", 10), (b"\xff\xfe", 10), (b" " * (4 * 1024 * 1024 + 1), 10), (None, 20)],
)
def test_what_cannot_be_read_is_named(
    saved: Path, tmp_path: Path, content: bytes | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """In either place, with the exit code of bad XML or of storage."""
    bad = tmp_path / "bad.xml"
    if content is not None:
        bad.write_bytes(content)

    assert run(saved, bad) == code
    assert run(bad, saved) == code
    assert capsys.readouterr().err.count(str(bad)) == 2


def test_values_cannot_move_the_cursor(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """XML from elsewhere may hold anything, of any length."""
    evil = "\N{CONTROL SEQUENCE INTRODUCER}2J" + "y" * 1000
    new = write(tmp_path / "new.xml", XML.replace("destroy", evil))

    assert run(saved, new) == 0
    out = capsys.readouterr().out
    assert "\N{CONTROL SEQUENCE INTRODUCER}" not in out
    assert max(map(len, out.splitlines())) < 250
