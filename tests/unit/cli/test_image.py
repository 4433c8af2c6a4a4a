"""fleetsave image: what it prints and with which code it exits."""

import json
from pathlib import Path

import pytest

from cli.main import main
from tests.data.image_files import LARGE_XML, OTHER_XML, UUID, XML, write_image

SECRET_XML = XML.replace("</domain>", "<devices><graphics type='vnc' passwd='s3cret'/></devices></domain>")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give an image with a manifest."""
    write_image(tmp_path / "a.save")
    return tmp_path / "a.save"


def run(*words: str | Path) -> int:
    """Run the command line; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["image", *map(str, words)])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_info_is_a_table_for_people(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One fact a line, sizes in units that people read."""
    assert run("info", path) == 0

    out = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["domain"] == f"web-1 ({UUID})"
    assert lines["state"].startswith("complete")
    assert lines["format"] == "raw (0), version 2, little-endian"
    assert lines["CPU"] == "qemu64"
    assert "memory         256.0 MiB, 2 CPUs\n" in out
    assert lines["checksum"].startswith("blake3 ")


def test_names_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image from elsewhere may hold any name."""
    write_image(tmp_path / "a.save", xml=XML.replace("web-1", "web\N{CONTROL SEQUENCE INTRODUCER}2J"))

    run("info", tmp_path / "a.save")

    assert "\N{CONTROL SEQUENCE INTRODUCER}" not in capsys.readouterr().out


def test_unfinished_image_is_shown_and_exits_with_12(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document holds what is known, and the error."""
    with path.open("r+b") as file:
        file.write(b"LibvirtQemudPart")

    assert run("info", path) == 12
    assert "INCOMPLETE" in capsys.readouterr().out
    assert run("info", path, "--json") == 12
    document = json.loads(capsys.readouterr().out)
    assert document["domain"] == "web-1"
    assert document["error"]["code"] == 12


def test_dumpxml_can_be_given_back(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With passwords on request only; what was printed with them defines the same again."""
    write_image(path, xml=SECRET_XML)

    run("dumpxml", path)
    assert "s3cret" not in capsys.readouterr().out
    run("dumpxml", path, "--security-info")
    text = capsys.readouterr().out
    assert "s3cret" in text
    (tmp_path / "new.xml").write_text(text.replace("destroy", "restart"))

    assert run("define", path, tmp_path / "new.xml") == 0
    assert "1 change of the XML, running after a restore" in capsys.readouterr().out


def test_define_reads_standard_input(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pipe from sed or xmlstarlet needs no file."""
    (tmp_path / "new.xml").write_text(LARGE_XML)
    with (tmp_path / "new.xml").open() as source:
        monkeypatch.setattr("sys.stdin", source)
        assert run("define", path, "-", "--paused") == 0

    assert "paused after a restore, memory moved by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["define"], 2),
        (["define", "--running", "--paused"], 2),
        (["define", "none.xml"], 20),
        (["define", "no.xml"], 10),
        (["define", "other.xml"], 11),
        (["verify", "--bypass-cache", "never"], 2),
    ],
)
def test_each_failure_has_its_code(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int
) -> None:
    """One line on stderr, one JSON object where asked for, and nothing has changed."""
    (tmp_path / "no.xml").write_bytes(b"\xff\xfe")
    (tmp_path / "other.xml").write_text(OTHER_XML.replace(UUID, UUID.replace("0b", "1c")))
    command, *rest = [tmp_path / word if word.endswith(".xml") else word for word in words]
    before = path.read_bytes()

    assert run(str(command), path, *rest, "--json") == code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert run(str(command), path, *rest) == code
    assert capsys.readouterr().err.startswith("fleetsave: ")
    assert path.read_bytes() == before


def test_verify_says_what_it_compared(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a manifest its parts; without one that there was nothing to compare with."""
    assert run("verify", path) == 0
    assert "1 part as written" in capsys.readouterr().out
    path.with_name("a.save.manifest.json").unlink()
    assert run("verify", path) == 0
    assert "nothing to compare with" in capsys.readouterr().out


def test_damage_is_named_by_part_and_bytes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line for people and the object for programs say the same."""
    with path.open("r+b") as file:
        file.seek(700_000)
        file.write(b"damage")

    assert run("verify", path) == 13
    assert "damaged in part 0 (bytes 0 to" in capsys.readouterr().err
    assert run("verify", path, "--json") == 13
    damaged = json.loads(capsys.readouterr().out)["error"]["fields"]["damaged_parts"]
    assert damaged == [{"number": 0, "start": 0, "end": path.stat().st_size}]


@pytest.mark.parametrize("command", ["info", "dumpxml", "define", "verify"])
def test_help_ends_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command can be copied from its help."""
    assert run(command, "--help") == 0
    assert f"fleetsave image {command}" in capsys.readouterr().out.partition("Examples:")[2]
