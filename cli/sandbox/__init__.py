"""A whole fleet on one machine, for demo, tests and benchmarks: hosts, guests, brokers, databases.

Each hypervisor host is an unprivileged user with a libvirt session daemon of its own.
"""

from cli.sandbox.broker import RedisServer
from cli.sandbox.database import PostgresServer
from cli.sandbox.domain import DiskSpec, GuestSpec
from cli.sandbox.errors import SandboxError
from cli.sandbox.guest import Guest
from cli.sandbox.host import Host
from cli.sandbox.sandbox import Sandbox

__all__ = [
    "DiskSpec",
    "Guest",
    "GuestSpec",
    "Host",
    "PostgresServer",
    "RedisServer",
    "Sandbox",
    "SandboxError",
]
