"""Count what a worker does; the names are part of the interface.

Source: DESIGN.md section 7.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from engine.flags import BypassFailure
from tasks.params import OPERATION_PARAMS
from tasks.states import FINAL, JobState

DOORBELL_RESULTS: Final = (
    "claimed", "cancelled", "duplicate", "expired", "bad_signature", "wrong_host", "malformed",
)  # fmt: skip
#: Of jobs found unfinished at start, the first three; of what dead engines left, the others.
RECOVERY_KINDS: Final = ("adopted", "closed", "lost", "discarded", "published", "resumed", "undecided")
_MODES: Final = ("direct", "buffered")
#: Operations that write an image, and those that read one.
_WRITING: Final = frozenset({"save", "checkpoint", "managed-save", "dump"})
_READING: Final = frozenset({"restore", "start"})
#: 1 second to 4 hours.
_DURATION_BUCKETS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
_PAUSE_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_WAIT_BUCKETS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
#: 50 MB/s to 20 GB/s.
_THROUGHPUT_BUCKETS: Final = (5e7, 1e8, 2e8, 4e8, 8e8, 1.2e9, 1.6e9, 2e9, 3e9, 5e9, 1e10, 2e10)


class WorkerMetrics:
    """Every number of one worker, in a registry of its own.

    Args:
        version: of fleetsave.
        store: directory of restore points, whose file system is measured at each scrape.
    """

    def __init__(self, *, version: str, store: Path | None) -> None:
        self.registry = CollectorRegistry()
        self._build = Info("fleetsave_build", "The version that runs.", registry=self.registry)
        self._build.info({"version": version})
        self._jobs = self._counter("jobs_total", "Jobs that ended.", "op", "outcome")
        self._running = self._gauge("jobs_running", "Jobs that run now.")
        self._duration = self._histogram(
            "job_duration_seconds", "From start to end of a job.", _DURATION_BUCKETS
        )
        self._queue_wait = self._histogram(
            "job_queue_wait_seconds", "From doorbell to start of a job.", _WAIT_BUCKETS
        )
        self._paused = self._histogram(
            "guest_paused_seconds", "How long a job let its guest stand still.", _PAUSE_BUCKETS
        )
        self._written = self._counter("bytes_written_total", "Bytes of images written.", "op", "mode")
        self._read = self._counter("bytes_read_total", "Bytes of images read.", "op", "mode")
        self._throughput = self._histogram(
            "throughput_bytes_per_second", "Bytes a second of one job.", _THROUGHPUT_BUCKETS
        )
        self._bypass_failures = self._counter(
            "cache_bypass_failures_total", "Page caches not bypassed, with the reason.", "op", "reason"
        )
        self._resident = self._gauge(
            "page_cache_resident_bytes", "Bytes of the last job's image left in the page cache."
        )
        self.doorbells = self._counter("doorbells_total", "Doorbells heard.", "result")
        self.recoveries = self._counter(
            "recoveries_total", "Unfinished jobs and leftovers of dead engines that were settled.", "kind"
        )
        self.libvirt_up = Gauge("fleetsave_libvirt_up", "1 if libvirt answered.", registry=self.registry)
        self.insecure = Gauge(
            "fleetsave_worker_insecure",
            "1 if the worker runs jobs that nobody signed.",
            registry=self.registry,
        )
        self.last_poll = Gauge(
            "fleetsave_worker_last_poll_timestamp_seconds",
            "When the worker last asked for doorbells.",
            registry=self.registry,
        )
        self._initialise()
        if store is not None:
            self._measure(store)

    def queue_wait(self, op: str, seconds: float) -> None:
        """Count how long a doorbell waited; clocks may disagree, time does not run backwards."""
        self._queue_wait.labels(op=op).observe(max(0.0, seconds))

    @contextmanager
    def running(self, op: str) -> Iterator[None]:
        """Count a job as running while the block runs."""
        with self._running.labels(op=op).track_inprogress():
            yield

    def job_ended(
        self,
        op: str,
        state: JobState,
        duration_seconds: float,
        *,
        result: dict[str, Any] | None,
        error: dict[str, Any] | None,
    ) -> None:
        """Count a job that ended, and what its engine measured."""
        self._jobs.labels(op=op, outcome=str(state)).inc()
        self._duration.labels(op=op).observe(max(0.0, duration_seconds))
        if result is not None:
            self._count_result(op, result)
        reason = (error or {}).get("fields", {}).get("reason")
        if isinstance(reason, str) and reason in set(BypassFailure):
            self._bypass_failures.labels(op=op, reason=reason).inc()

    def polled(self) -> None:
        """Note that the worker has just asked for doorbells."""
        self.last_poll.set(time.time())

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"fleetsave_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"fleetsave_{name}", text, ("op",), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"fleetsave_{name}", text, ("op",), registry=self.registry, buckets=buckets)

    def _count_result(self, op: str, result: dict[str, Any]) -> None:
        """Count what the engine measured; what it left out is not counted."""
        if op not in _WRITING | _READING:
            return
        if (paused := _number(result.get("guest_paused_seconds"))) is not None:
            self._paused.labels(op=op).observe(paused)
        if (throughput := _number(result.get("throughput_bytes_per_second"))) is not None:
            self._throughput.labels(op=op).observe(throughput)
        bypass = result.get("bypass_cache")
        if not isinstance(bypass, dict):
            return
        moved = self._written if op in _WRITING else self._read
        for mode in _MODES:
            moved.labels(op=op, mode=mode).inc(_number(bypass.get(f"{mode}_bytes")) or 0)
        if (resident := _number(bypass.get("resident_bytes"))) is not None:
            self._resident.labels(op=op).set(resident)
        for reason in bypass.get("failures") or ():
            if reason in set(BypassFailure):
                self._bypass_failures.labels(op=op, reason=reason).inc()

    def _initialise(self) -> None:
        """Show every known label value as 0: a series that appears late hides its first increase."""
        for op in OPERATION_PARAMS:
            for metric in (self._running, self._duration, self._queue_wait):
                metric.labels(op=op)
            for state in FINAL:
                self._jobs.labels(op=op, outcome=str(state))
            if op not in _WRITING | _READING:
                continue
            for metric in (self._paused, self._throughput, self._resident):
                metric.labels(op=op)
            for mode in _MODES:
                (self._written if op in _WRITING else self._read).labels(op=op, mode=mode)
            for reason in BypassFailure:
                self._bypass_failures.labels(op=op, reason=str(reason))
        for result in DOORBELL_RESULTS:
            self.doorbells.labels(result=result)
        for kind in RECOVERY_KINDS:
            self.recoveries.labels(kind=kind)

    def _measure(self, store: Path) -> None:
        """Measure the store's file system whenever somebody scrapes."""
        for name, text, field in (
            ("fleetsave_store_free_bytes", "Bytes free on the store's file system.", "free"),
            ("fleetsave_store_used_bytes", "Bytes used on the store's file system.", "used"),
        ):
            gauge = Gauge(name, text, ("store",), registry=self.registry)
            gauge.labels(store=str(store)).set_function(_Measure(store, field))


class _Measure:
    """Asks the file system; a store that is not there makes NaN, not a failed scrape."""

    def __init__(self, path: Path, field: str) -> None:
        self._path = path
        self._field = field

    def __call__(self) -> float:
        try:
            return float(getattr(shutil.disk_usage(self._path), self._field))
        except OSError:
            return float("nan")


def _number(value: object) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        else None
    )
