"""Hold what a command was told to do, checked as far as it can be without asking anybody."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cli.documents import read_document
from tasks.errors import RefusedJobError, UsageError
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
    return None if file is None else read_document(file, where=f"--dxml {file}", size_max=DXML_SIZE_MAX)
