"""Make the Celery application, for those who ring and for those who answer.

Source: CELERY.md section 1.10 (kombu 5.7, celery 5.7).
"""

from __future__ import annotations

from typing import Any, Final

from celery import Celery
from kombu import Queue

from tasks.broker import CONNECT_TIMEOUT_SECONDS, SOCKET_TIMEOUT_SECONDS, first_queue_name, queue_name
from tasks.config import Settings

#: The one task; its name is part of the protocol between releases.
RUN_TASK: Final = "fleetsave.run"

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


def make_app(settings: Settings, *, answers: bool = False) -> Celery:
    """Return an application that knows the broker; it connects when it is used.

    Args:
        settings: broker and host.
        answers: whether this is the host's worker, which reads the host's own queues.
    """
    app = Celery("fleetsave", broker=settings.broker_url, set_as_current=False)
    app.conf.update(_CONF)
    host = settings.host.name
    app.conf.broker_transport_options = _transport_options(host if answers else None)
    # Read in this order: with the strategy "priority" the second is looked at only while the first is empty.
    names = (first_queue_name(host), queue_name(host)) if answers else ()
    app.conf.task_queues = [Queue(name, routing_key=name) for name in names]
    if answers:
        app.conf.task_default_queue = queue_name(host)
    return app


def _transport_options(host: str | None) -> dict[str, Any]:
    """Return kombu's options; without the timeouts a half-open connection is never noticed.

    Args:
        host: whose worker it is; None: somebody who rings.
    """
    owner = host or "control"
    # kombu takes the pauses between two tries to connect from here, and would start with 2 seconds.
    return ({} if host else _PUBLISH_RETRY) | {
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
        # One Redis list per queue, and it is the one the access rules name.
        "priority_steps": [0],
        "queue_order_strategy": "priority",
        "client_name": f"fleetsave-{owner}",
        # Of its own for each host: otherwise every host could read every other's messages.
        "unacked_key": f"unacked:{owner}",
        "unacked_index_key": f"unacked_index:{owner}",
        "unacked_mutex_key": f"unacked_mutex:{owner}",
        "visibility_timeout": 3600,
    }
