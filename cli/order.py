"""Hold what a command was told to do, checked as far as it can be without asking anybody."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cli.textfile import read_text
from tasks.errors import RefusedJobError, UsageError
from tasks.limits import DEADLINE_PARAMS
from tasks.params import check_together

#: Bytes; what travels with a job must fit into an envelope of 1 MiB.
DXML_SIZE_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One operation on one domain or several, and how to report it."""

    op: str
    #: Names or UUIDs in the order given; empty for a restore, which takes the domain from the image.
    domains: tuple[str, ...] = ()
    #: What tasks.params.OPERATION_PARAMS allows for the operation, only what was given; paths as given.
    params: dict[str, Any] = field(default_factory=dict)
    #: Host to run on; None: the one that has the domain.
    host: str | None = None
    is_waiting: bool = True
    #: Attempts in all, and seconds before the second; None: as the settings say, else one.
    attempts: int | None = None
    backoff: float | None = None
    #: Seconds that the job may wait, take, and stand still; None: as the settings say, else for ever.
    max_queue_wait: float | None = None
    max_duration: float | None = None
    max_stall: float | None = None
    #: Here and now, without broker and catalog.
    is_local: bool = False
    #: Only locally: libvirt connection URI; None: LIBVIRT_DEFAULT_URI or what fits the user.
    uri: str | None = None
    #: Only locally: directory of restore points.
    store: Path | None = None
    as_json: bool = False
    is_quiet: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UsageError: it does; nothing was touched.
        """
        if self.params.get("running") and self.params.get("paused"):
            raise UsageError("--running and --paused", "exclude each other", "at most one of them")
        if self.params.get("to") is not None and len(self.domains) > 1:
            raise UsageError(
                "--to", f"one file for {len(self.domains)} domains", "one domain",
                "leave --to out: each gets a restore point in its host's store",
            )  # fmt: skip
        self._check_together()
        if self.backoff is not None and self.attempts is None:
            raise UsageError("--backoff", "without --attempts", "both: one attempt has nothing to wait for")
        for key, option in (("to", "--to"), ("path", "POINT|PATH")):
            if self.params.get(key) == "":
                raise UsageError(option, "must not be empty", "a path")
        for domain in self.domains:
            if self.domains.count(domain) > 1:
                raise UsageError(f"domain {domain}", "named twice", "each domain once")
        self._check_place()

    def _check_together(self) -> None:
        """Refuse options that mean nothing together, here as in a job."""
        if self.params.get("autodestroy") and not self.is_local:
            raise UsageError(
                "--autodestroy", "the guest would end with the job, whose connection closes at its end", "",
                "add --local: it keeps one open until Ctrl-C",
            )  # fmt: skip
        try:
            check_together(self.op, self.params)
        except RefusedJobError as error:
            raise UsageError(error.where, error.found, error.wanted, error.hint) from error

    @property
    def job_params(self) -> dict[str, Any]:
        """Return what a job is told of attempts and time, only what was given."""
        times = {key: value for key in DEADLINE_PARAMS if (value := getattr(self, key)) is not None}
        if self.attempts is None:
            return times
        backoff = {} if self.backoff is None else {"backoff": self.backoff}
        return times | {"retry": {"attempts": self.attempts, **backoff}}

    @property
    def is_single(self) -> bool:
        """Tell whether it is about one domain: its answer is one object, not a list."""
        return len(self.domains) <= 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Return what to call each of the operations."""
        return self.domains or (str(self.params.get("path", "?")),)

    def _check_place(self) -> None:
        """Refuse options that belong to the other way of running."""
        if not self.is_local:
            for value, option in ((self.uri, "--uri"), (self.store, "--store")):
                if value is not None:
                    raise UsageError(option, "goes with --local only", hint="the host's own settings say it")
            return
        if self.job_params:
            raise UsageError(
                "--attempts and --max-...", "are for jobs, and --local makes none", hint="leave them out"
            )
        if self.host is not None:
            raise UsageError("--host", "excludes --local, which runs on this host", "one of them")
        if not self.is_waiting:
            raise UsageError("--no-wait", "excludes --local, which runs here and now", "one of them")


def absolute_path(text: str) -> str:
    """Return the path by this command's working directory, without "..", as jobs carry it."""
    return os.path.abspath(text)  # noqa: PTH100 - links are the other host's to follow


def read_dxml(file: Path | None) -> str | None:
    """Return the text of the domain XML file, None for None.

    Raises:
        StorageError: it cannot be read.
        DomainXmlError: too large to be domain XML, or no text.
    """
    return _read_text(file, "--dxml", "domain XML", "virsh dumpxml shows one")


def read_rules(file: Path | None) -> str | None:
    """Return the text of the file of rules, None for None; the host reads what it says.

    Raises:
        StorageError: it cannot be read.
        DomainXmlError: too large for rules, or no text.
    """
    return _read_text(file, "--rewrite", "rules", "docs/DXML.md says what they look like")


def _read_text(file: Path | None, option: str, what: str, hint: str) -> str | None:
    if file is None:
        return None
    return read_text(file, option=option, what=what, size_max=DXML_SIZE_MAX, hint=hint)
