"""Put together what one host's worker consists of, and take it apart again."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Self, TypeVar

import structlog
from prometheus_client import start_http_server

from engine.errors import StorageError
from tasks.broker import open_redis
from tasks.config import FILE_VARIABLE, Settings
from tasks.dispatcher import Dispatcher
from tasks.envelope import open_envelope
from tasks.errors import ConfigError, RefusedJobError, UsageError
from tasks.host_flags import HostFlags
from tasks.inventory import DescribeHost, Inventory, ListDomains
from tasks.journal import Journal
from tasks.keyring import CheckSignature, Keyring, trust_anybody
from tasks.leftovers import Leftovers
from tasks.metrics import WorkerMetrics
from tasks.question import open_question
from tasks.recovery import recover_jobs
from tasks.sender import EventSender
from tasks.slots import Slots
from tasks.supervisor import Supervisor

#: Jobs are forgotten this long after their end; longer than any doorbell for them can be good.
_MEMORY: Final = timedelta(days=30)
#: Seconds for the last events when the worker ends.
_FLUSH_SECONDS: Final = 5.0

DocumentT = TypeVar("DocumentT")

_log: Final = structlog.get_logger(__name__)


class HostWorker:
    """Everything of a worker but Celery: journal, supervisor, sender, inventory, metrics.

    Args:
        settings: broker and host.
        engine_command: what to run as the engine.
        list_domains: how to see the host's domains.
        describe_host: how to see what guests it can run.

    Raises:
        StorageError: a directory cannot be made or written.
        ConfigError: no key is trusted, and it is not said that everybody is.
        UsageError: another worker uses the same state directory.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine_command: Sequence[str],
        list_domains: ListDomains,
        describe_host: DescribeHost,
    ) -> None:
        host = settings.host
        self._host = host.name
        self._address = (host.metrics_address, host.metrics_port)
        #: Where /metrics is served, once started.
        self.metrics_port = 0
        self._check_signature = _open_keyring(settings)
        for folder in (host.state_dir, host.runtime_dir):
            _make_folder(folder)
        # What was opened first is closed last.
        self._closing = ExitStack()
        self._closing.callback(os.close, _lock_folder(host.state_dir))
        self.metrics = WorkerMetrics(version=_version(), store=host.store)
        self.metrics.insecure.set(settings.trust.insecure)
        self._journal = self._closing.enter_context(
            Journal(host.state_dir / "journal.sqlite", host=host.name)
        )
        self._leftovers = Leftovers(host, self.metrics)
        has_room = threading.Event()
        self._slots = Slots(host.parallel, host.limits, has_room)
        redis = open_redis(settings.broker_url, client_name=f"fleetsave-flags-{host.name}")
        self._flags = HostFlags(redis, self._journal, host=host.name, has_room=has_room)
        self._supervisor = Supervisor(
            journal=self._journal,
            settings=host,
            metrics=self.metrics,
            leftovers=self._leftovers,
            command=engine_command,
            is_cancelled=self._flags.is_cancelled,
        )
        redis = open_redis(settings.broker_url, client_name=f"fleetsave-events-{host.name}")
        self._sender = EventSender(self._journal, redis, host=host.name)
        self._dispatcher = Dispatcher(
            host,
            journal=self._journal,
            supervisor=self._supervisor,
            sender=self._sender,
            flags=self._flags,
            slots=self._slots,
            metrics=self.metrics,
            has_room=has_room,
        )
        self._inventory = Inventory(
            host,
            self._sender.publish_inventory,
            self.metrics,
            list_domains=list_domains,
            describe_host=describe_host,
            is_draining=lambda: self._flags.is_draining,
            tags=settings.tags,
            version=_version(),
        )

    def __enter__(self) -> Self:
        """Serve metrics, recover what the worker before left, begin to report.

        Doorbells may ring after this.

        Raises:
            UsageError: the metrics port is taken.
        """
        try:
            self._serve_metrics()
            self._journal.prune(before=datetime.now(UTC) - _MEMORY)
            self._sender.start()
            self._closing.callback(self._sender.stop, _FLUSH_SECONDS)
            self._flags.start()
            self._closing.callback(self._flags.stop)
            self._closing.callback(self._dispatcher.stop)
            for thread in self._recover():
                self._closing.callback(thread.join)
            self._closing.callback(self.stop_taking)
            self._dispatcher.start()
            self._inventory.start()
            self._closing.callback(self._inventory.stop)
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the jobs that were taken up, say what is left to say, and let go of everything."""
        self._closing.close()

    def stop_taking(self) -> None:
        """Start nothing more, and leave jobs that cannot be decided yet to the next worker."""
        self._dispatcher.stop_taking()
        self._supervisor.stop_settling()

    def answer_doorbell(self, envelope: object, signature: object) -> None:
        """Let the job that a doorbell speaks of run in its turn; count and drop every other doorbell."""
        try:
            job = self._open(open_envelope, envelope, signature)
        except RefusedJobError as error:
            self.refuse_doorbell(error)
            return
        self._dispatcher.answer(job)

    def _recover(self) -> list[threading.Thread]:
        """Put right what the worker before left; return the threads that go on with what it began."""
        return recover_jobs(
            self._journal,
            self._supervisor,
            self.metrics,
            self._leftovers,
            flags=self._flags,
            slots=self._slots,
            resume=self._dispatcher.resume,
        )

    def refuse_doorbell(self, error: RefusedJobError) -> None:
        """Count a doorbell that is dropped."""
        self.metrics.doorbells.labels(result=error.reason).inc()
        _log.warning("doorbell refused", reason=error.reason, error=str(error))

    def answer_question(self, question: object, signature: object) -> None:
        """Say again what is journaled about a job, or that nothing is; drop a question that is no good."""
        try:
            asked = self._open(open_question, question, signature)
        except RefusedJobError as error:
            _log.warning("question refused", reason=error.reason, error=str(error))
            return
        is_known = self._journal.tell_again(asked.job_id, asked.attempt)
        _log.info("asked about a job", job_id=asked.job_id, attempt=asked.attempt, known=is_known)
        if not is_known:
            self._sender.publish_unknown(asked.job_id, asked.attempt)

    def _open(
        self, open_document: Callable[..., DocumentT], document: object, signature: object
    ) -> DocumentT:
        """Return what a signed document from the queue holds, if it is for this host, in time and trusted.

        Raises:
            RefusedJobError: it is not.
        """
        text = document if isinstance(document, str) else ""
        return open_document(
            text.encode(errors="replace"),
            signature,
            check=self._check_signature,
            host=self._host,
            now=datetime.now(UTC),
        )

    def _serve_metrics(self) -> None:
        """Serve /metrics."""
        address, port = self._address
        try:
            server, _ = start_http_server(port, address, registry=self.metrics.registry)
        except OSError as error:
            where = f"metrics on {address}:{port}"
            raise UsageError(where, str(error), "a free port", "see metrics_port") from error
        self._closing.callback(server.server_close)
        self._closing.callback(server.shutdown)
        self.metrics_port = server.server_port


def _open_keyring(settings: Settings) -> CheckSignature:
    """Return what tells whose jobs this host runs; nobody's unless that is said."""
    trust = settings.trust
    if trust.insecure:
        _log.warning("insecure: whoever reaches the broker can give this host jobs", host=settings.host.name)
        return trust_anybody
    keyring = Keyring(trust.keys, trust.keys_dir)
    if not keyring.list_keys():
        raise ConfigError(
            "trust.keys", "no key is trusted: this host would refuse every job",
            "the control host's public key in [trust] keys or keys_dir",
            f"fleetsave keys generate on the control host makes one; ${FILE_VARIABLE} names these settings",
        )  # fmt: skip
    return keyring.check


def _make_folder(folder: Path) -> None:
    """Make a directory that only this user may enter."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            str(folder), error.strerror or str(error), "a directory this user may write"
        ) from error


def _lock_folder(folder: Path) -> int:
    """Return a descriptor that keeps every other worker out of the directory until it is closed."""
    try:
        lock = os.open(folder / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            str(folder), error.strerror or str(error), "a directory this user may write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UsageError(str(folder), "another worker uses it", "one worker for each state_dir") from error
    return lock


def _version() -> str:
    """Return the version that is installed."""
    try:
        return version("fleetsave")
    except PackageNotFoundError:
        return "unknown"
