from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from engine import Engine, list_domains
from engine.errors import EngineError, InvalidArgumentError, NotSupportedError, ReadOnlyError

#: libvirt's own test driver: one running domain called "test".
URI = "test:///default"


@pytest.fixture
def domain() -> Iterator[Any]:
    """Give the domain as libvirt sees it; what engines do to it lasts as long as this connection."""
    connection = libvirt.open(URI)
    yield connection.lookupByName("test")
    connection.close()


@pytest.fixture
def engine(tmp_path: Path, domain: Any) -> Iterator[Engine]:
    """Give an engine on the same hypervisor."""
    assert domain.isActive()
    with Engine(URI, runtime_dir=tmp_path / "run", store=tmp_path / "store") as opened:
        yield opened


#: Every operation that changes something.
CHANGES: dict[str, Callable[[Engine], object]] = {
    "save": lambda engine: engine.save("test", "/tmp/a.save"),
    "checkpoint": lambda engine: engine.checkpoint("test", "/tmp/a.save"),
    "restore": lambda engine: engine.restore("/tmp/a.save"),
    "core_dump": lambda engine: engine.core_dump("test", "/tmp/a.core"),
    "managed_save": lambda engine: engine.managed_save("test"),
    "managed_save_remove": lambda engine: engine.managed_save_remove("test"),
    "start": lambda engine: engine.start("test"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_read_only_engine_refuses_every_change(tmp_path: Path, domain: Any, name: str) -> None:
    """As libvirt does: operation denied, and nothing was done."""
    with Engine(URI, runtime_dir=tmp_path, read_only=True) as engine, pytest.raises(ReadOnlyError) as caught:
        CHANGES[name](engine)

    assert (caught.value.exit_code, caught.value.libvirt_code) == (35, 29)
    assert domain.isActive()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda engine: engine.save("test", ""), "to: must not be empty"),
        (lambda engine: engine.restore(""), "from: must not be empty"),
        (lambda engine: engine.core_dump("test", ""), "to: must not be empty"),
        (lambda engine: engine.restore("a\0b"), "no path"),
        (lambda engine: engine.save("test", "/\ud800"), "no path"),
        (lambda engine: engine.save("test", "/tmp/a", flags=2 | 4), "mutually exclusive"),
        (lambda engine: engine.restore("/tmp/a", flags=2 | 4), "mutually exclusive"),
        (lambda engine: engine.managed_save("test", 2 | 4), "mutually exclusive"),
        (lambda engine: engine.save("test", "/tmp/a", flags=8), r"unsupported flags \(0x8\)"),
        (lambda engine: engine.save("test", "/tmp/a", flags=64 | 1), r"unsupported flags \(0x40\)"),
        (lambda engine: engine.checkpoint("test", "/tmp/a", flags=8), r"unsupported flags \(0x8\)"),
        (lambda engine: engine.restore("/tmp/a", flags=16), r"unsupported flags \(0x10\)"),
        (lambda engine: engine.managed_save("test", 8), r"unsupported flags \(0x8\)"),
        (lambda engine: engine.start("test", 64), r"unsupported flags \(0x40\)"),
        (lambda engine: engine.core_dump("test", "/tmp/a", flags=32), r"unsupported flags \(0x20\)"),
        (lambda engine: engine.core_dump("test", "/tmp/a", 5), "dump_format: 5"),
        (lambda engine: engine.save("test", "/tmp/a", bypass_cache="maybe"), "require or prefer or off"),
        (lambda engine: engine.save("test", "/tmp/a", flags=1, bypass_cache="off"), "one of the two"),
        (lambda engine: engine.save("test", "/tmp/a", data_path="other"), "stream or native"),
        (lambda engine: engine.save("test", "/tmp/a", zstd_level=0), "zstd level: 0"),
        (lambda engine: engine.save("test", "/tmp/a", zstd_level=23), "zstd level: 23"),
        (lambda engine: engine.save("test", "/tmp/a", bandwidth=0), "bandwidth: 0"),
        (lambda engine: engine.checkpoint("test", "/tmp/a", max_pause_seconds=0), "max_pause_seconds: 0"),
    ],
)
def test_call_that_makes_no_sense_is_refused(
    engine: Engine, domain: Any, call: Callable[[Engine], object], sentence: str
) -> None:
    """An invalid argument is libvirt's error 8 and exit status 2; the guest is not touched."""
    with pytest.raises(InvalidArgumentError, match=sentence) as caught:
        call(engine)

    assert (caught.value.exit_code, caught.value.libvirt_code) == (2, 8)
    assert domain.isActive()


def test_stream_on_another_driver_is_refused(engine: Engine, domain: Any, tmp_path: Path) -> None:
    """A driver that is not known to wait for us at the end would lose the guest: it is left alone."""
    with pytest.raises(NotSupportedError, match="stream on the test driver") as caught:
        engine.save("test", tmp_path / "a.save", bypass_cache="off")

    assert (caught.value.exit_code, caught.value.libvirt_code) == (34, 3)
    assert domain.isActive()
    assert list(tmp_path.glob("*a.save*")) == []


def test_relative_path_is_taken_from_the_callers_directory(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As libvirt's client does, before anything travels."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(EngineError, match=str(tmp_path / "missing" / "a.save")):
        engine.restore("missing/a.save")


def test_domains_are_listed_with_their_tags(domain: Any) -> None:
    """Name, UUID, state and the words of the metadata, sorted by name."""
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        "<tags>prod, web\n db</tags>",
        "fleetsave",
        "urn:fleetsave:1",
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )

    (found,) = list_domains(URI)

    assert (found.name, found.uuid, found.state) == ("test", domain.UUIDString(), "running")
    assert found.tags == ("prod", "web", "db")
    assert found.memory_bytes == domain.maxMemory() * 1024
