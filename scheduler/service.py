"""Keep the catalog true and jobs going, as long as this process leads: the loop that owns the clock."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from celery import Celery
from redis import Redis
from redis.exceptions import RedisError

from scheduler.reconcile import Limits
from scheduler.reconciler import Reconciler
from tasks.cancel import repeat_cancels
from tasks.catalog import Catalog
from tasks.catalog.leases import LeaseView, release_lease, take_lease
from tasks.config import SchedulerSettings
from tasks.drain import repeat_drains
from tasks.errors import BrokerError
from tasks.events import apply_events
from tasks.retry import ring_due

#: The lease that makes a leader.
LEASE_NAME: Final = "scheduler"

_log: Final = structlog.get_logger(__name__)


class SchedulerService:
    """One of any number of schedulers; only the one that holds the lease does anything.

    Args:
        settings: the [scheduler] table.
        catalog: of `tasks.catalog.open_catalog`.
        redis: of `tasks.broker.open_redis`.
        app: of `tasks.app.make_app`.
        now: clock, aware.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        *,
        catalog: Catalog,
        redis: Redis,
        app: Celery,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._redis = redis
        self._app = app
        self._now = now
        #: Who this is, in the lease.
        self.owner: Final = f"{settings.name}:{os.getpid()}:{secrets.token_hex(4)}"
        self._reconciler = Reconciler(catalog, redis, app, limits_of(settings))
        self._lease: LeaseView | None = None
        self._reconcile_at: datetime | None = None

    @property
    def is_leader(self) -> bool:
        """Tell whether this scheduler holds the lease, as far as it knows."""
        return self._lease is not None and self._lease.expires_at > self._now()

    def run(self, stop: threading.Event) -> None:
        """Lead, or wait to lead, until told to stop; in any thread.

        A catalog or broker that is away is waited for.
        """
        is_down = False
        while not stop.is_set():
            try:
                self.turn()
            except (BrokerError, RedisError) as error:
                if not is_down:
                    _log.warning("scheduler waits", error=str(error) or type(error).__name__)
                is_down = True
            else:
                if is_down:
                    _log.info("scheduler goes on")
                is_down = False
            stop.wait(self._settings.pass_seconds)
        self._step_down()

    def turn(self) -> None:
        """Take or keep the lease, and do once what a leader does.

        Raises:
            BrokerError: the catalog or the broker cannot be reached.
            redis.RedisError: Redis cannot be reached.
        """
        now = self._now()
        duration = timedelta(seconds=self._settings.lease_seconds)
        had = self._lease
        self._lease = take_lease(self._catalog, LEASE_NAME, self.owner, now=now, duration=duration)
        if self._lease is None:
            if had is not None:
                _log.warning("scheduler leads no more", owner=self.owner)
            return
        if had is None or had.epoch != self._lease.epoch:
            _log.info("scheduler leads", owner=self.owner, epoch=self._lease.epoch)
            self._reconcile_at = None
        self._lead(self._lease, now)

    def _lead(self, lease: LeaseView, now: datetime) -> None:
        """Do once what a leader does: each duty in its turn."""
        apply_events(self._catalog, self._redis, now=self._now)
        ring_due(self._catalog, self._app, now)
        if self._reconcile_at is None or now >= self._reconcile_at:
            self._reconcile_at = now + timedelta(seconds=self._settings.reconcile_seconds)
            repeat_drains(self._catalog, self._redis)
            repeat_cancels(self._catalog, self._redis, now=now)
            self._reconciler.reconcile(lease, now=now)

    def _step_down(self) -> None:
        """Let the next one lead at once."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            release_lease(self._catalog, lease, now=self._now())
        except BrokerError as error:
            _log.warning("lease left to expire", error=str(error))


def limits_of(settings: SchedulerSettings) -> Limits:
    """Return what the settings say about when something is too long."""
    return Limits(
        ring_again=timedelta(seconds=settings.ring_again_seconds),
        silence=timedelta(seconds=settings.silence_seconds),
        ask_again=timedelta(seconds=settings.ask_again_seconds),
        host_down=timedelta(seconds=settings.host_down_seconds),
        host_gone=timedelta(hours=settings.host_gone_hours),
    )
