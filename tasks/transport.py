"""Take doorbells from Redis with no right but to take them, and go on whatever they are.

kombu would keep each message under keys of its own until it is acknowledged, and put it back into the queue
when the connection is lost or the worker ends. That takes the right to write into the queue and to run
scripts; and a doorbell that is lost is rung again, since its row still says "queued" (docs/decisions/0011).
"""

from __future__ import annotations

from queue import Empty
from typing import Any, Final

import structlog
from celery import signals
from kombu.exceptions import DecodeError
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport.redis import Channel, Transport

#: Name of the transport, for `broker_transport` and in URLs of Unix sockets.
TRANSPORT: Final = "fleetsave"
#: What reading a message that is none of Celery's may end with.
_NONSENSE: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DecodeError)

_log: Final = structlog.get_logger(__name__)


class _Taken(virtual.QoS):
    """Keeps no account of messages: what was popped is gone, and one that was nonsense holds no place.

    kombu would count each until it is acknowledged; garbage that Celery stumbles over never is, and a worker
    that takes one message at a time would hear no other.
    """

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Forget it."""

    def ack(self, delivery_tag: Any) -> None:
        """Have nothing to forget."""

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Have nothing to put back."""


class DoorbellChannel(Channel):
    """Pops messages; what was popped is never put back."""

    ack_emulation = False
    do_restore = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # kombu chooses in its own __init__, and types it as its own class.
        self.QoS: type[virtual.QoS] = _Taken  # type: ignore[assignment]

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """Let a message go that nobody was there to take."""
        del leftmost
        _log.warning("doorbell dropped, it will be rung again", task_id=message.headers.get("id"))

    def _brpop_read(self, **options: Any) -> Any:
        """Read one message; one that cannot be read is dropped, and does not end the worker."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except _NONSENSE as error:
            signals.task_rejected.send(sender=self, message=None, exc=error)
            raise Empty from error


class DoorbellTransport(Transport):
    """kombu's Redis transport with the channel above."""

    Channel = DoorbellChannel


TRANSPORT_ALIASES[TRANSPORT] = f"{__name__}:{DoorbellTransport.__name__}"
