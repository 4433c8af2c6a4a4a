from pathlib import Path

import pytest

from engine.domxml.offer import HostCapabilities
from engine.errors import NotSupportedError, StorageError
from tasks.access import TrustSettings
from tasks.config import HostSettings, Settings
from tasks.errors import ConfigError, UsageError
from tasks.host import HostWorker
from tasks.keys import generate_key

KEY = generate_key("control")


def describe_nothing(uri: str) -> HostCapabilities:
    """Stand in for a hypervisor that does not say what it can run."""
    raise NotSupportedError(uri, "no capabilities")


def worker(
    folder: Path, *, name: str = "alpha", port: int = 0, trust: TrustSettings | None = None
) -> HostWorker:
    """Return a worker that was not started; nobody answers at its broker."""
    host = HostSettings(name=name, state_dir=folder / "state", runtime_dir=folder / "run", metrics_port=port)
    trust = trust or TrustSettings(keys={KEY.key_id: KEY.public.text})
    settings = Settings(broker_url="redis://127.0.0.1:1/0", host=host, trust=trust)
    return HostWorker(
        settings, engine_command=("true",), list_domains=lambda _: [], describe_host=describe_nothing
    )


def test_second_worker_on_one_state_directory_is_refused(tmp_path: Path) -> None:
    """Two recoveries would take up the same engines; after the first has ended it is free."""
    with worker(tmp_path), pytest.raises(UsageError, match="another worker"):
        worker(tmp_path, name="beta")
    with worker(tmp_path):
        pass


def test_worker_ends_cleanly_where_redis_never_answered(tmp_path: Path) -> None:
    """What was to be said waits in the journal."""
    with worker(tmp_path) as opened:
        opened.answer_doorbell("no envelope", None)
        assert (
            opened.metrics.registry.get_sample_value("fleetsave_doorbells_total", {"result": "malformed"})
            == 1
        )


def test_taken_metrics_port_is_named(tmp_path: Path) -> None:
    """And the state directory is free again."""
    with worker(tmp_path / "a") as first, pytest.raises(UsageError, match=f":{first.metrics_port}"):
        worker(tmp_path / "b", port=first.metrics_port).__enter__()
    with worker(tmp_path / "b"):
        pass


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "state").touch()
    with pytest.raises(StorageError, match="state"):
        worker(tmp_path)


def test_worker_that_trusts_nobody_does_not_start(tmp_path: Path) -> None:
    """It would refuse every job; one line says what to do."""
    (tmp_path / "trusted").mkdir()
    for trust in (TrustSettings(keys={}), TrustSettings(keys_dir=tmp_path / "trusted")):
        with pytest.raises(ConfigError) as caught:
            worker(tmp_path, trust=trust)
        assert caught.value.exit_code == 2
        assert "fleetsave keys generate" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("insecure", [True, False])
def test_insecure_worker_says_so(tmp_path: Path, insecure: bool) -> None:
    """In a metric, from the start on."""
    trust = TrustSettings(insecure=True) if insecure else None
    with worker(tmp_path, trust=trust) as opened:
        assert opened.metrics.registry.get_sample_value("fleetsave_worker_insecure") == insecure
