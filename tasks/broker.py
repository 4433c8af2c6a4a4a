"""Connect to Redis and name what lies in it."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from redis import Redis

_STREAM_PREFIX: Final = "events."
_QUEUE_PREFIX: Final = "host."
_CANCEL_PREFIX: Final = "cancel."
_DRAIN_PREFIX: Final = "drain."
#: Ends the name of the queue that is emptied first; no host's name ends so.
FIRST_SUFFIX: Final = ".restore"
#: Operations that somebody waits for without a guest: never behind a queue of saves.
FIRST_OPERATIONS: Final = frozenset({"restore", "start"})
#: The queue that the control plane takes submissions from.
CONTROL_QUEUE: Final = "control"
#: The one field of a stream entry: JSON of a HostEvent.
EVENT_FIELD: Final = "event"
#: Entries that a stream keeps, about; the journal keeps what was not read before they go.
STREAM_LENGTH_MAX: Final = 100_000
#: A password among the options of a database's URL.
_SECRET: Final = re.compile(r"((?:^|[?&])[^=&]*passw[^=&]*=)[^&#]*", re.IGNORECASE)
#: Seconds; a silent broker is noticed after so long.
CONNECT_TIMEOUT_SECONDS: Final = 5.0
SOCKET_TIMEOUT_SECONDS: Final = 10.0


def queue_name(host: str) -> str:
    """Return the name of the queue that the host's worker takes doorbells from."""
    return _QUEUE_PREFIX + host


def first_queue_name(host: str) -> str:
    """Return the name of the queue that the host's worker empties first."""
    return queue_name(host) + FIRST_SUFFIX


def find_queue_name(host: str, op: str) -> str:
    """Return the name of the queue that doorbells for the operation go into."""
    return first_queue_name(host) if op in FIRST_OPERATIONS else queue_name(host)


def cancel_key(host: str, job_id: str) -> str:
    """Return the key that is there while somebody wants the job to stop."""
    return f"{_CANCEL_PREFIX}{host}.{job_id}"


def drain_key(host: str) -> str:
    """Return the key that tells the host's worker to take no more jobs, or to take them again."""
    return _DRAIN_PREFIX + host


def stream_name(host: str) -> str:
    """Return the key of the stream that the host's worker appends events to."""
    return _STREAM_PREFIX + host


def cancel_pattern(host: str) -> str:
    """Return what the keys of the host's cancel flags look like; only the control side may set them."""
    return f"{_CANCEL_PREFIX}{host}.*"


def open_redis(broker_url: str, *, client_name: str) -> Redis:
    """Return a client of the broker; it connects at the first command, and the caller closes it."""
    url = _plain_url(broker_url)
    # A Unix socket has neither of these, and the client would not take them.
    network: dict[str, Any] = {"socket_connect_timeout": CONNECT_TIMEOUT_SECONDS, "socket_keepalive": True}
    return Redis.from_url(
        url,
        client_name=client_name,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        health_check_interval=10,
        decode_responses=True,
        **({} if url.startswith("unix:") else network),
    )


def find_reporting_hosts(redis: Redis) -> list[str]:
    """Return the hosts that have an event stream."""
    keys = redis.scan_iter(match=f"{_STREAM_PREFIX}*", count=1000, _type="STREAM")
    return sorted(str(key).removeprefix(_STREAM_PREFIX) for key in keys)


def redact_url(url: str) -> str:
    """Return the URL without what a log must not show."""
    url = _SECRET.sub(r"\1***", url)
    parts = urlsplit(url)
    if not parts.password:
        return url
    address = parts.hostname or ""
    if parts.port:
        address += f":{parts.port}"
    return parts._replace(netloc=f"***@{address}").geturl()


def _plain_url(url: str) -> str:
    """Turn Celery's spelling of a Unix socket into the client's."""
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":
        return url
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    secret = f"{parts.netloc}@" if parts.netloc and "@" not in parts.netloc else parts.netloc
    return f"unix://{secret}{parts.path}?db={database}"
