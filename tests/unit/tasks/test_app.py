import pytest
from celery.exceptions import QueueNotFound

from tasks.app import make_app
from tasks.config import HostSettings, Settings
from tasks.transport import DoorbellChannel

SETTINGS = Settings(broker_url="redis://127.0.0.1:1/0", host=HostSettings(name="alpha"))


@pytest.mark.parametrize("scheme", ["redis://127.0.0.1:1/0", "redis+socket:///run/redis.sock"])
def test_worker_reads_its_own_queues_only(scheme: str) -> None:
    """That of restores first; by the transport that writes into no queue, however Redis is reached."""
    app = make_app(Settings(broker_url=scheme, host=HostSettings(name="alpha")), answers=True)
    assert list(app.amqp.queues) == ["host.alpha.restore", "host.alpha"]
    assert app.conf.broker_transport_options["priority_steps"] == [0]
    with app.connection_for_read() as connection:
        assert connection.transport.Channel is DoorbellChannel
    app.close()


def test_mistyped_queue_fails_loudly() -> None:
    """Celery would otherwise make a queue that nobody reads."""
    app = make_app(SETTINGS)
    with pytest.raises(QueueNotFound):
        app.send_task("fleetsave.run", queue="host.alphaa")
    app.close()


def test_settings_are_those_that_keep_jobs_safe() -> None:
    """Source: the table in section 1.10 of the Celery notes."""
    conf = make_app(SETTINGS).conf
    wanted = {
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "task_ignore_result": True,
        "result_backend": None,
        "task_track_started": False,
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_create_missing_queues": False,
        "worker_enable_remote_control": False,
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "worker_hijack_root_logger": False,
    }
    assert {key: conf[key] for key in wanted} == wanted
