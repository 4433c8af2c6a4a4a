"""Name what can go wrong between the command and the engine, as the engine names its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.errors import EngineError

#: Ids that a sentence spells out; the rest is a number.
_IDS_SHOWN = 5


class UsageError(EngineError):
    """The call asks for something that no job can mean."""

    exit_code = 2
    default_libvirt_code = 8


class ConfigError(UsageError):
    """A setting is missing or wrong; `where` is the file (or variable) and the key."""


class BrokerError(EngineError):
    """Redis or the catalog's database cannot be reached.

    `job_ids` are the jobs that stand in the catalog as queued, their doorbells not rung.
    """

    exit_code = 40
    default_libvirt_code = 38
    is_transient = True

    def __init__(  # noqa: PLR0917 (pickle passes them by position)
        self,
        where: str,
        found: str,
        wanted: str = "",
        hint: str = "",
        libvirt_code: int | None = None,
        job_ids: Sequence[str] = (),
    ) -> None:
        super().__init__(where, found, wanted, hint, libvirt_code)
        self.job_ids = tuple(job_ids)
        self.args = (where, found, wanted, hint, libvirt_code, self.job_ids)

    @property
    def message(self) -> str:
        """Add how many jobs wait, and which."""
        text = super().message
        if not self.job_ids:
            return text
        shown = ", ".join(self.job_ids[:_IDS_SHOWN])
        more = len(self.job_ids) - _IDS_SHOWN
        return f"{text}; waiting as queued: {shown}" + (f" and {more} more" if more > 0 else "")

    def to_dict(self) -> dict[str, Any]:
        """Add the ids of the jobs that wait."""
        document = super().to_dict()
        document["fields"]["job_ids"] = list(self.job_ids)
        return document


class DeadlineError(EngineError):
    """A job waited, took or stood still for longer than it may; it is not tried again by itself."""

    exit_code = 75
    default_libvirt_code = 87


class RefusedJobError(EngineError):
    """A doorbell was not answered; nothing was done.

    `reason` is one of the values of fleetsave_doorbells_total{result}.
    """

    exit_code = 41
    default_libvirt_code = 88

    def __init__(  # noqa: PLR0917 (pickle passes them by position)
        self,
        where: str,
        found: str,
        wanted: str = "",
        hint: str = "",
        libvirt_code: int | None = None,
        reason: str = "malformed",
    ) -> None:
        super().__init__(where, found, wanted, hint, libvirt_code)
        self.reason = reason
        self.args = (where, found, wanted, hint, libvirt_code, reason)

    def to_dict(self) -> dict[str, Any]:
        """Add the reason, which the worker counts."""
        document = super().to_dict()
        document["fields"]["reason"] = self.reason
        return document
