from pathlib import Path
from typing import Any

import pytest

from cli.order import DXML_SIZE_MAX, Order, absolute_path, read_dxml, read_rules
from engine.errors import DomainXmlError, EngineError, StorageError
from tasks.errors import UsageError


@pytest.mark.parametrize(
    "fields",
    [
        {"params": {"running": True, "paused": True}},
        {"domains": ("a", "b"), "params": {"to": "x.save"}},
        {"params": {"to": ""}},
        {"params": {"path": ""}},
        {"domains": ("a", "b", "a")},
        {"uri": "qemu:///system"},
        {"store": Path("/store")},
        {"is_local": True, "host": "alpha"},
        {"is_local": True, "is_waiting": False},
        {"op": "start", "params": {"autodestroy": True}},
        {"params": {"data_path": "native", "compress": "zstd"}},
        {"params": {"image_format": "sparse"}},
        {"params": {"channels": 2}},
        {"op": "dump", "params": {}},
        {"op": "dump", "params": {"to": "x", "crash": True, "live": True}},
        {"op": "dump", "params": {"to": "x", "format": "kdump-zlib"}},
    ],
)
def test_contradiction_is_refused(fields: dict[str, Any]) -> None:
    """Exit code 2 before anybody is asked anything."""
    with pytest.raises(UsageError) as caught:
        Order(**{"op": "save", "domains": ("a",), **fields})

    assert caught.value.exit_code == 2


def test_paths_travel_absolute_and_without_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host has another working directory; "." and ".." mean the caller's."""
    monkeypatch.chdir(tmp_path)

    assert absolute_path("a.save") == f"{tmp_path}/a.save"
    assert absolute_path("../a.save") == f"{tmp_path.parent}/a.save"
    assert absolute_path("/srv/./b/../a.save") == "/srv/a.save"


def test_text_of_the_dxml_file_is_read_here(tmp_path: Path) -> None:
    """The file is on this machine; the host gets its text."""
    file = tmp_path / "new.xml"
    file.write_text("<domain/>\n")

    assert read_dxml(file) == "<domain/>\n"
    assert read_rules(file) == "<domain/>\n"
    assert read_dxml(None) is None
    assert read_rules(None) is None


@pytest.mark.parametrize(
    ("content", "kind"),
    [(None, StorageError), (b"\xff\xfe", DomainXmlError), (b" " * (DXML_SIZE_MAX + 1), DomainXmlError)],
)
def test_unfit_dxml_file_is_refused(tmp_path: Path, content: bytes | None, kind: type[EngineError]) -> None:
    """Missing, no text, or too large to travel; the sentence names the file."""
    file = tmp_path / "new.xml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(kind, match=r"new\.xml"):
        read_dxml(file)


def test_endless_dxml_file_is_not_read_to_its_end() -> None:
    """Reading is bounded, whatever is given."""
    with pytest.raises(DomainXmlError, match="too large"):
        read_dxml(Path("/dev/zero"))


def test_what_a_job_is_told_of_time_is_what_was_given() -> None:
    """Nothing where nothing was said, so that the settings' defaults hold."""
    assert Order(op="save", domains=("a",)).job_params == {}
    order = Order(op="save", domains=("a",), attempts=3, backoff=60.0, max_stall=5.0)
    assert order.job_params == {"retry": {"attempts": 3, "backoff": 60.0}, "max_stall": 5.0}
    with pytest.raises(UsageError, match="--local"):
        Order(op="save", domains=("a",), is_local=True, max_stall=5.0)
    with pytest.raises(UsageError, match="--attempts"):
        Order(op="save", domains=("a",), backoff=5.0)
