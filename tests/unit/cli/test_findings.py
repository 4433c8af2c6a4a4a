import pytest

from cli.findings import exit_code_of_findings, print_findings
from engine.errors import NoSpaceError, StorageError
from engine.findings import Finding

FINE = Finding(name="libvirt", detail="answers")
WARNING = Finding(name="store", detail="none is configured", is_warning=True)
FULL = Finding(name="space", detail="", error=NoSpaceError("/store", "1 MiB free", "2 MiB", "free space"))
MISSING = Finding(name="target", detail="", error=StorageError("/x", "no such directory"))


@pytest.mark.parametrize(
    ("findings", "code"),
    [([], 0), ([FINE, WARNING], 0), ([FINE, FULL, MISSING], 21), ([MISSING, FULL], 20)],
)
def test_first_thing_in_the_way_is_the_exit_code(findings: list[Finding], code: int) -> None:
    """A warning is in nobody's way."""
    assert exit_code_of_findings(findings) == code


def test_table_says_what_is_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, the verdict in its own column."""
    print_findings([FINE, WARNING, FULL])

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:5]] == ["ok", "warning", "error"]
    assert "1 MiB free" in lines[4]
    assert "free space" in lines[4]
