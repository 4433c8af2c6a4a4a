"""fleetsave dxml rewrite: what it prints, with which code it exits, and that every example is true."""

import io
import json
from pathlib import Path

import pytest

from cli.main import main
from tests.data.image_files import XML, write_image, write_point

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "dxml"
RULES = "[[disk]]\nset = {cache = 'none'}\noptional = true\n"
ON_CRASH = "on_crash = 'restart'\n"
SECRET_XML = XML.replace("</domain>", "<devices><graphics type='vnc' passwd='s3cret'/></devices></domain>")


def run(*words: str | Path) -> int:
    """Run the command line; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["dxml", "rewrite", *map(str, words)])
    code = ended.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Give a file with one rule."""
    path = tmp_path / "rules.toml"
    path.write_text(ON_CRASH)
    return path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_does_what_its_diff_shows(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The diff beside it is what --diff prints."""
    monkeypatch.chdir(EXAMPLES)

    assert run("web-1.xml", "--rules", path.name, "--diff") == 0

    assert capsys.readouterr().out == path.with_suffix(".diff").read_text()


def test_example_of_a_copy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name has the same UUID and addresses each time."""
    monkeypatch.chdir(EXAMPLES)

    assert run("web-1.xml", "--as", "web-2", "--diff") == 0

    assert capsys.readouterr().out == (EXAMPLES / "as-web-2.diff").read_text()


def test_stdout_is_the_new_xml_to_the_byte(
    tmp_path: Path, rules: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Line ends, mark of the byte order and characters of any language included; nothing else is printed."""
    text = "\ufeff<domain>\r\n  <!-- \u00e9 -->\r\n  <on_crash>destroy</on_crash>\r\n</domain>"
    (tmp_path / "a.xml").write_bytes(text.encode())

    assert run(tmp_path / "a.xml", "--rules", rules) == 0

    printed = capfdbinary.readouterr()
    assert printed.out == text.replace("destroy", "restart").encode()
    assert printed.err == b""


def test_rules_that_match_nothing_print_what_was_read(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """To the byte."""
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "a.xml").write_text("<domain  a = '1' />")

    assert run(tmp_path / "a.xml", "--rules", tmp_path / "rules.toml") == 0

    assert capfdbinary.readouterr().out == b"<domain  a = '1' />"


def test_images_and_points_are_read_with_their_passwords(
    tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed can be given back: a hidden password would be refused."""
    write_image(tmp_path / "a.save", xml=SECRET_XML)
    write_point(tmp_path / "point", xml=SECRET_XML)

    for path in (tmp_path / "a.save", tmp_path / "point"):
        assert run(path, "--rules", rules) == 0
        assert capsys.readouterr().out == SECRET_XML.replace("destroy", "restart")


def test_standard_input_is_read(
    rules: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virsh dumpxml can be put before it."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(XML.encode())))

    assert run("-", "--rules", rules) == 0

    assert "<on_crash>restart</on_crash>" in capsys.readouterr().out


def test_json_holds_xml_and_changes(tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each change with its rule; first those of the rules, then those of the name."""
    (tmp_path / "a.xml").write_text(XML)

    assert run(tmp_path / "a.xml", "--rules", rules, "--as", "web-2", "--json") == 0

    document = json.loads(capsys.readouterr().out)
    assert document["changes"][0] == {
        "rule": "on_crash", "xpath": "/domain/on_crash[1]/text()", "old": "destroy", "new": "restart",
    }  # fmt: skip
    assert [change["xpath"] for change in document["changes"][1:]] == [
        "/domain/name[1]/text()", "/domain/uuid[1]/text()",
    ]  # fmt: skip
    assert "<name>web-2</name>" in document["xml"]


def test_a_diff_shows_no_password(tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even in a line that changes; no name moves the cursor; a last line without end is marked."""
    path = tmp_path / "a.xml"
    path.write_text(SECRET_XML.replace("web-1", "web\N{CONTROL SEQUENCE INTRODUCER}2J"))

    assert run(path, "--rules", rules, "--diff") == 0

    out = capsys.readouterr().out
    assert "s3cret" not in out
    assert "passwd='*****'" in out
    assert "\N{CONTROL SEQUENCE INTRODUCER}" not in out
    assert out.count("\\ No newline at end of file") == 2


def test_nothing_that_changes_is_no_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As diff has it."""
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "a.xml").write_text(XML)

    assert run(tmp_path / "a.xml", "--rules", tmp_path / "rules.toml", "--diff") == 0

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("xml", "rules", "option", "code"),
    [
        (XML, None, "", 2),
        (XML, ON_CRASH, "--diff", 2),
        ("<x/>", ON_CRASH, "", 10),
        (XML, "[[disk]]\nset = {file = '/a'}", "", 10),
        (XML, "[[disk]]\nset = {file = ''}", "", 10),
        (XML, "on_crash = 5", "", 10),
        (XML, "\ufeffon_crash", "", 10),
        (XML, ON_CRASH, "--as=a/b", 10),
        ("<domain><name>a</name><devices><interface type='hostdev'/></devices></domain>",
         "[[interface]]\nset = {network = 'default'}", "", 11),
        (None, ON_CRASH, "", 20),
        (XML, "", "", 20),
    ],
)  # fmt: skip
def test_each_failure_has_its_code(  # noqa: PLR0917 - pytest names them
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    xml: str | None,
    rules: str | None,
    option: str,
    code: int,
) -> None:
    """One line on stderr, one JSON object where asked for."""
    if xml is not None:
        (tmp_path / "a.xml").write_text(xml)
    if rules:
        (tmp_path / "rules.toml").write_text(rules)
    given = [] if rules is None else [f"--rules={tmp_path / 'rules.toml'}"]
    given += [option] if option else []

    assert run(tmp_path / "a.xml", *given, "--json") == code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    if option != "--diff":
        assert run(tmp_path / "a.xml", *given) == code
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("fleetsave: ")


def test_too_large_and_no_text(tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is not read to its end to find that out."""
    (tmp_path / "large.xml").write_bytes(b"<domain>" + b" " * 4 * 1024 * 1024)
    (tmp_path / "latin.xml").write_bytes(b"<domain>\xe9</domain>")
    (tmp_path / "large.toml").write_bytes(b"#" * (1024 * 1024 + 1))

    for words, sentence in (
        (("large.xml", rules), "too large for domain XML"),
        (("latin.xml", rules), "no UTF-8"),
        (("latin.xml", tmp_path / "large.toml"), "no UTF-8"),
    ):
        assert run(tmp_path / words[0], "--rules", words[1]) == 10
        assert sentence in capsys.readouterr().err
    (tmp_path / "a.xml").write_text(XML)
    assert run(tmp_path / "a.xml", "--rules", tmp_path / "large.toml") == 10
    assert "large.toml: too large for rules, want at most 1048576 bytes" in capsys.readouterr().err


def test_help_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """The command can be copied from its help."""
    assert run("--help") == 0
    assert "fleetsave dxml rewrite" in capsys.readouterr().out.partition("Examples:")[2]
