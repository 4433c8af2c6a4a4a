"""Name everything that can go wrong in the engine, once, with what the operator can do about it.

Source: exit codes, DESIGN.md section 6; libvirt codes, libvirt include/libvirt/virterror.h.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EngineError(Exception):
    """An operation failed; the guest is as it was unless the sentence says otherwise.

    A subclass exists where a caller acts differently. All of them take the same four
    texts, so that they pickle, travel as JSON and print as one line.
    """

    #: Exit status of a command that ends with this error.
    exit_code: ClassVar[int] = 1
    #: libvirt's number for the same situation (virErrorNumber).
    default_libvirt_code: ClassVar[int] = 1
    #: True where the same call may succeed later without anybody's doing.
    is_transient: ClassVar[bool] = False

    def __init__(
        self, where: str, found: str, wanted: str = "", hint: str = "", libvirt_code: int | None = None
    ) -> None:
        super().__init__(where, found, wanted, hint, libvirt_code)
        #: The path, domain or option that the error is about.
        self.where = where
        #: What is.
        self.found = found
        #: What should be; may be empty.
        self.wanted = wanted
        #: What to do; may be empty.
        self.hint = hint
        #: libvirt's number, its own where libvirt reported the error.
        self.libvirt_code = self.default_libvirt_code if libvirt_code is None else libvirt_code

    @property
    def message(self) -> str:
        """Say where, what is and what should be, on one line."""
        text = f"{self.where}: {self.found}" if self.where else self.found
        if self.wanted:
            text += f", want {self.wanted}"
        return " ".join(text.split())

    def __str__(self) -> str:
        return f"{self.message}; {' '.join(self.hint.split())}" if self.hint else self.message

    def to_dict(self) -> dict[str, Any]:
        """Return the value of the "error" key of every JSON answer."""
        return {
            "class": type(self).__name__,
            "code": self.exit_code,
            "libvirt_code": self.libvirt_code,
            "message": self.message,
            "hint": self.hint,
            "fields": {"where": self.where, "found": self.found, "wanted": self.wanted},
            "transient": self.is_transient,
        }


class InvalidArgumentError(EngineError):
    """The call itself makes no sense: flags that exclude each other, an empty path."""

    exit_code = 2
    default_libvirt_code = 8


class ImageFormatError(EngineError):
    """The bytes are not of the format that they should have, such as a libvirt save image."""

    exit_code = 10
    default_libvirt_code = 9


class DomainXmlError(EngineError):
    """The text is no domain XML that may be read."""

    exit_code = 10
    default_libvirt_code = 27


class AbiError(EngineError):
    """The new domain XML would change the machine under a running guest."""

    exit_code = 11
    default_libvirt_code = 67


class ImageIncompleteError(EngineError):
    """The image carries the mark of a save that never finished, or is cut short."""

    exit_code = 12
    default_libvirt_code = 9


class ChecksumError(EngineError):
    """The bytes read are not the bytes that were written."""

    exit_code = 13
    default_libvirt_code = 9


class StorageError(EngineError):
    """A file or directory is missing, unreadable, unwritable or in the way."""

    exit_code = 20
    default_libvirt_code = 38


class TargetExistsError(StorageError):
    """The name is taken; nothing that exists is ever overwritten."""


class NoSpaceError(EngineError):
    """The file system cannot hold the image."""

    exit_code = 21
    default_libvirt_code = 38


class BypassError(EngineError):
    """The page cache cannot be bypassed, or was not.

    `reason` is one of the values of fleetsave_cache_bypass_failures_total.
    """

    exit_code = 22
    default_libvirt_code = 9

    def __init__(self, *texts: Any, reason: str = "unsupported_filesystem") -> None:
        super().__init__(*texts)
        self.reason = reason

    def to_dict(self) -> dict[str, Any]:
        """Add the reason, which the worker counts."""
        document = super().to_dict()
        document["fields"]["reason"] = self.reason
        return document


class PathNotAllowedError(EngineError):
    """The path lies outside the host's allowed directories."""

    exit_code = 23
    default_libvirt_code = 88


class HypervisorError(EngineError):
    """libvirt or QEMU refused or failed."""

    exit_code = 30


class HypervisorUnreachableError(HypervisorError):
    """No connection to libvirt could be made."""

    default_libvirt_code = 38
    is_transient = True


class GuestGoneError(HypervisorError):
    """The guest ended by itself while it was worked on: there is nothing to put back."""


class NoDomainError(EngineError):
    """The hypervisor knows no such domain."""

    exit_code = 31
    default_libvirt_code = 42


class DomainBusyError(EngineError):
    """Another operation holds the domain."""

    exit_code = 32
    default_libvirt_code = 68
    is_transient = True


class WrongStateError(EngineError):
    """The domain is not in a state that the operation can start from."""

    exit_code = 33
    default_libvirt_code = 55


class StaleDiskError(WrongStateError):
    """The disks are not those that the guest's memory knows: it would tear their file systems apart."""


class NotSupportedError(EngineError):
    """This hypervisor driver lacks the operation."""

    exit_code = 34
    default_libvirt_code = 3


class ReadOnlyError(EngineError):
    """A read-only engine refuses every change."""

    exit_code = 35
    default_libvirt_code = 29


class TryAgainError(EngineError):
    """Something passing stood in the way."""

    exit_code = 75
    default_libvirt_code = 87
    is_transient = True


class CancelledError(EngineError):
    """Somebody asked for the operation to stop; everything is as before."""

    exit_code = 130
    default_libvirt_code = 78


class UndecidedError(TryAgainError):
    """Nobody can tell yet whether the guest went or stayed; its image is kept, whole, in staging."""
