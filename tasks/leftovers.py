"""Put right what dead engines left on this host, and find out what became of their jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from engine import recover as engine_recover
from engine.errors import EngineError, PathNotAllowedError
from engine.outcome import Outcome
from engine.published import find_published
from engine.recover import Recovery
from engine.store.places import check_allowed, plan_file, plan_point
from tasks.config import HostSettings
from tasks.metrics import WorkerMetrics

#: Operations that make an image with a manifest of ours beside it.
_IMAGE_MAKING: Final = frozenset({"save", "checkpoint", "dump"})

_log: Final = structlog.get_logger(__name__)


class Recover(Protocol):
    """The engine's recovery: `engine.recover`."""

    def __call__(
        self, uri: str, *, runtime_dir: Path, directories: Sequence[Path], job_id: str | None = None
    ) -> list[Recovery]:
        """Put right what dead engines left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What was found of a job whose engine is dead."""

    #: The job's image is there, whole.
    outcome: Outcome | None = None
    #: What was done, or found, in one sentence each.
    recoveries: tuple[Recovery, ...] = ()
    #: Why nothing could be decided; "" where it could.
    undecided: str = ""

    @property
    def was_put_back(self) -> bool:
        """True where it is certain that the guest is as it was."""
        return any(recovery.kind in {"discarded", "resumed"} for recovery in self.recoveries)


class Leftovers:
    """The engine's recovery with this host's settings; safe in threads.

    Args:
        settings: of this host.
        metrics: told of everything that was settled.
        recover: the engine's recovery.
    """

    def __init__(
        self, settings: HostSettings, metrics: WorkerMetrics, *, recover: Recover = engine_recover
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._recover = recover
        #: What a sweep found, by job: the job's own turn comes later.
        self._found: dict[str, list[Recovery]] = {}

    def sweep(self, targets: Iterable[Path]) -> None:
        """Put right what all dead engines left; `settle` tells later what that says about each job.

        Args:
            targets: files that unfinished jobs were to make: each was staged beside its target.
        """
        for one in self._put_right(targets, None):
            self._found.setdefault(one.job_id, []).append(one)

    def settle(self, job_id: str, op: str, target: Path | None) -> Remains:
        """Put right what one job's dead engine left, and say what became of the job.

        Args:
            job_id: of the job.
            op: its operation.
            target: the file that it was to make; None = a restore point, or no image at all.
        """
        before = [one for one in self._found.pop(job_id, []) if one.kind != "undecided"]
        found = [*before, *self._put_right([target] if target else [], job_id)]
        recoveries = tuple(one for one in found if one.job_id == job_id)
        undecided = next((one.detail for one in recoveries if one.kind == "undecided"), "")
        if not undecided and any(path.exists() for path in self._stagings(job_id, target)):
            undecided = "another process puts it right at this moment"
        if undecided:
            self._found[job_id] = before
        return Remains(
            outcome=self._find_outcome(job_id, op, target), recoveries=recoveries, undecided=undecided
        )

    def _stagings(self, job_id: str, target: Path | None) -> list[Path]:
        """Return where the job may have been writing."""
        if target is not None:
            return [plan_file(target, job_id).staging] if self._allowed_folders([target]) else []
        store = self._settings.store
        return [] if store is None else [plan_point(store, "", job_id, datetime.now(UTC)).staging]

    def _find_outcome(self, job_id: str, op: str, target: Path | None) -> Outcome | None:
        if op not in _IMAGE_MAKING:
            return None
        try:
            return find_published(job_id, to=target, store=self._settings.store)
        except OSError as error:
            _log.warning("image cannot be looked for", job_id=job_id, error=str(error))
            return None

    def _put_right(self, targets: Iterable[Path], job_id: str | None) -> list[Recovery]:
        """Call the engine's recovery; what it cannot do now is undecided."""
        settings = self._settings
        stores = [settings.store] if settings.store else []
        directories = dict.fromkeys((*stores, *self._allowed_folders(targets)))
        try:
            found = self._recover(
                settings.uri, runtime_dir=settings.runtime_dir, directories=[*directories], job_id=job_id
            )
        except (EngineError, OSError) as error:
            _log.warning("recovery failed", job_id=job_id, error=str(error))
            failure = Recovery(
                kind="undecided", job_id=job_id or "", domain="", path="", detail=f"recovery failed: {error}"
            )
            return [failure]
        for one in found:
            self._metrics.recoveries.labels(kind=one.kind).inc()
            _log.info(
                "recovered", kind=one.kind, job_id=one.job_id, domain=one.domain, path=one.path,
                detail=one.detail,
            )  # fmt: skip
        return found

    def _allowed_folders(self, targets: Iterable[Path]) -> list[Path]:
        """Return the directories of the targets; one that no engine may write to holds nothing of ours."""
        roots = [str(root) for root in self._settings.roots]
        folders = []
        for target in targets:
            try:
                check_allowed(target.parent, roots)
            except PathNotAllowedError:
                continue
            folders.append(target.parent)
        return folders
