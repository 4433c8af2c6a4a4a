"""Say in Redis's own words what each user of the broker may do: no more than its part of the work.

A host pops its own queue, appends to its own event stream and reads its own cancel flags; it can put nothing
into any queue. An operator can put into the queue of the control plane, and nothing else.

Source: Redis 7.0, ACL rules; what kombu 5.7 sends with `tasks.transport`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tasks.broker import (
    CONTROL_QUEUE,
    cancel_pattern,
    drain_key,
    first_queue_name,
    queue_name,
    stream_name,
)

CONTROL_USER: Final = "control"
ADMIN_USER: Final = "admin"
_HOST_PREFIX: Final = "host-"
_OPERATOR_PREFIX: Final = "operator-"
#: What every client sends before it does anything.
_CONNECT: Final = "+auth +hello +ping +select +client|setname"
#: The transport declares its queues so, in a transaction.
_DECLARE: Final = "+multi +exec +llen +sadd"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUser:
    """One user of the broker."""

    name: str
    #: ACL rules: keys, then commands.
    rules: str

    def format_line(self, password: str) -> str:
        """Return the user's line of an ACL file; of the password it holds only a hash."""
        digest = hashlib.sha256(password.encode()).hexdigest()
        return f"user {self.name} on #{digest} resetkeys resetchannels -@all {self.rules}"


def host_user(host: str) -> RedisUser:
    """Return the user of a host's worker."""
    keys = f"{_queues(host)} ~{stream_name(host)} %R~{cancel_pattern(host)} %R~{drain_key(host)}"
    # INFO: fleetsave doctor on the host sees whether the broker would forget or evict what it holds.
    return RedisUser(
        name=_HOST_PREFIX + host, rules=f"{keys} {_CONNECT} {_DECLARE} +brpop +xadd +get +mget +exists +info"
    )


def control_user() -> RedisUser:
    """Return the user of the control host: scheduler, command line."""
    keys = (
        f"{_queue(CONTROL_QUEUE)} {_queue(queue_name('*'))} "
        f"%R~{stream_name('*')} ~{cancel_pattern('*')} ~{drain_key('*')}"
    )
    commands = "+brpop +lpush +xread +xrange +xlen +scan +get +set +del +exists +expire +info"
    return RedisUser(name=CONTROL_USER, rules=f"{keys} {_CONNECT} {_DECLARE} {commands}")


def operator_user(name: str) -> RedisUser:
    """Return the user of somebody who submits over Celery: what is asked for counts by its signature."""
    # Any Celery client: where priority_steps is not set, it looks at three lists more before it sends.
    rules = f"{_queue(CONTROL_QUEUE)} %R~{CONTROL_QUEUE}??[369] {_CONNECT} {_DECLARE} +smembers +lpush"
    return RedisUser(name=_OPERATOR_PREFIX + name, rules=rules)


def admin_user() -> RedisUser:
    """Return the user that may do everything, for who looks after Redis."""
    return RedisUser(name=ADMIN_USER, rules="~* &* +@all")


def format_acl(users: Iterable[RedisUser], passwords: Mapping[str, str]) -> str:
    """Return the content of an ACL file: these users, and nobody without a password.

    Args:
        users: each of them once.
        passwords: user name -> password.
    """
    lines = ["user default off resetkeys resetchannels -@all"]
    lines += [user.format_line(passwords[user.name]) for user in users]
    return "\n".join(lines) + "\n"


def new_password() -> str:
    """Return a password that nobody can guess; it needs no quoting anywhere."""
    return secrets.token_urlsafe(32)


def _queues(host: str) -> str:
    """Return the keys of a host's queues, each by its full name: host a must not reach into host a.b."""
    return " ".join(_queue(name) for name in (queue_name(host), first_queue_name(host)))


def _queue(name: str) -> str:
    """Return the keys of a queue: the list, and where kombu notes that it exists."""
    return f"~{name} ~_kombu.binding.{name} ~_kombu.binding_permanent.{name}"
