"""Make the Celery application, for those who ring and for those who answer.

Source: CELERY.md section 1.10 (kombu 5.7, celery 5.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from celery import Celery
from kombu import Queue

from tasks.broker import (
    CONNECT_TIMEOUT_SECONDS,
    CONTROL_QUEUE,
    SOCKET_TIMEOUT_SECONDS,
    first_queue_name,
    queue_name,
)
from tasks.config import Settings
from tasks.keys import SigningKey, read_signing_key
from tasks.transport import TRANSPORT

#: Doorbell and question; their names are part of the protocol between releases.
RUN_TASK: Final = "fleetsave.run"
REPORT_TASK: Final = "fleetsave.report"

#: The row waits in the catalog: whoever submits is told at once rather than kept waiting.
_PUBLISH_RETRY: Final = {"max_retries": 3, "interval_start": 0, "interval_step": 0.3, "interval_max": 1.0}
_CONF: Final[dict[str, Any]] = {
    # The message is a doorbell: it is gone once heard, and retries belong to the job's own states.
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_retry_on_worker_lost": False,
    # Doorbells stay in Redis until a slot is free, so that a queue can be looked at and drained.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # No second store of states beside journal and catalog.
    "task_ignore_result": True,
    "result_backend": None,
    "task_track_started": False,
    "task_serializer": "json",
    "event_serializer": "json",
    "accept_content": ["json"],
    # A mistyped host must fail, not make a queue that nobody reads.
    "task_create_missing_queues": False,
    "task_publish_retry": True,
    "task_publish_retry_policy": _PUBLISH_RETRY,
    # Hosts outlive broker outages, however long.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_pool_acquire_timeout": 30,
    # Two connections a host instead of four, and no reply queues that nobody empties.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "enable_utc": True,
    "timezone": "UTC",
}
#: Without the timeouts a half-open connection is never noticed.
_TRANSPORT_OPTIONS: Final[dict[str, Any]] = {
    "socket_timeout": SOCKET_TIMEOUT_SECONDS,
    "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "retry_on_timeout": False,
    # One Redis list per queue, and it is the one the access rules name.
    "priority_steps": [0],
    "queue_order_strategy": "priority",
}


class _SigningApp(Celery):
    """An application that has a key: whoever rings through it signs, none can forget to."""

    signing_key: SigningKey | None = None


def make_app(settings: Settings, *, answers: bool = False) -> Celery:
    """Return an application that knows the broker; it connects when it is used.

    Args:
        settings: broker and host; the key that doorbells are signed with.
        answers: whether this is the host's worker, which reads the host's own queues and signs nothing.

    Raises:
        ConfigError: the signing key cannot be read.
    """
    host = settings.host.name
    # Read in this order: with the strategy "priority" the second is looked at only while the first is empty.
    app = _make_app(settings, reads=(first_queue_name(host), queue_name(host)) if answers else ())
    if settings.signing_key is not None and not answers:
        app.signing_key = read_signing_key(settings.signing_key)
    return app


def make_control_app(settings: Settings) -> Celery:
    """Return the application of the control plane's own worker, which reads the queue for submissions."""
    return _make_app(settings, reads=(CONTROL_QUEUE,))


def signing_key_of(app: Celery) -> SigningKey | None:
    """Return the key that the application signs doorbells with; None: it has none."""
    return app.signing_key if isinstance(app, _SigningApp) else None


def _make_app(settings: Settings, *, reads: Sequence[str]) -> _SigningApp:
    """Return an application that reads these queues, the first of them first."""
    url = settings.broker_url
    if reads:
        # A scheme with a plus names the transport itself.
        url = url.replace("redis+socket:", f"{TRANSPORT}+socket:", 1)
    app = _SigningApp("fleetsave", broker=url, set_as_current=False)
    app.conf.update(_CONF)
    app.conf.task_queues = [Queue(name, routing_key=name) for name in reads]
    client_name = f"fleetsave-{reads[-1].removeprefix('host.') if reads else 'control'}"
    app.conf.broker_transport_options = _TRANSPORT_OPTIONS | {"client_name": client_name}
    if reads:
        app.conf.broker_transport = TRANSPORT
        app.conf.task_default_queue = reads[-1]
    else:
        # kombu takes the pauses between two tries to connect from here, and would start with 2 seconds.
        app.conf.broker_transport_options |= _PUBLISH_RETRY
    return app
