"""Open what the control side has: settings, catalog, broker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click
from redis import Redis
from redis.exceptions import RedisError

from tasks.broker import open_redis, redact_url
from tasks.catalog import Catalog, open_catalog
from tasks.config import Settings, load_settings
from tasks.errors import BrokerError
from tasks.events import apply_events
from tasks.logs import configure_logging


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The control side's connections while a command runs."""

    settings: Settings
    catalog: Catalog
    redis: Redis

    def catch_up(self) -> None:
        """Bring the catalog up to what the hosts have said.

        Raises:
            BrokerError: Redis does not answer; the catalog stands as it was.
        """
        try:
            apply_events(self.catalog, self.redis)
        except RedisError as error:
            raise BrokerError(
                f"broker {redact_url(self.settings.broker_url)}",
                str(error) or type(error).__name__,
                "a Redis that answers",
                "start it, or see broker_url",
            ) from error

    def catch_up_if_possible(self) -> None:
        """Bring the catalog up to date; say so on stderr if that cannot be, since an older view may do."""
        try:
            self.catch_up()
        except BrokerError as error:
            click.echo(f"fleetsave: what follows may be old: {error}", err=True)


@contextmanager
def open_control() -> Iterator[Control]:
    """Open settings, catalog and broker for one command.

    Raises:
        ConfigError: the settings are wrong.
        BrokerError: the catalog cannot be opened.
    """
    # What libraries and tasks log is for services; a command says what matters itself.
    configure_logging(logging.ERROR)
    settings = load_settings()
    with open_catalog(settings.catalog_url) as catalog:
        redis = open_redis(settings.broker_url, client_name="fleetsave-cli")
        try:
            yield Control(settings=settings, catalog=catalog, redis=redis)
        finally:
            redis.close()
