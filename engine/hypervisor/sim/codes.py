"""Raise the engine's errors by libvirt's numbers, in libvirt's words.

Source: libvirt include/libvirt/virterror.h, virErrorNumber; the contract suite compares
the table with the one of the libvirt driver.
"""

from __future__ import annotations

import os
from typing import Final

from engine.errors import (
    AbiError,
    CancelledError,
    DomainBusyError,
    DomainXmlError,
    EngineError,
    HypervisorError,
    InvalidArgumentError,
    NoDomainError,
    NotSupportedError,
    PathNotAllowedError,
    ReadOnlyError,
    StorageError,
    TargetExistsError,
    WrongStateError,
)
from engine.flags import SaveFlags

INTERNAL_ERROR: Final = 1
NO_SUPPORT: Final = 3
INVALID_CONN: Final = 6
INVALID_ARG: Final = 8
OPERATION_FAILED: Final = 9
OPERATION_DENIED: Final = 29
SYSTEM_ERROR: Final = 38
NO_DOMAIN: Final = 42
OPERATION_INVALID: Final = 55
CONFIG_UNSUPPORTED: Final = 67
OPERATION_TIMEOUT: Final = 68
OPERATION_ABORTED: Final = 78
OPERATION_UNSUPPORTED: Final = 84

#: libvirt's error number -> the class a caller acts on; HypervisorError for all others.
ERRORS: Final[dict[int, type[EngineError]]] = {
    NO_SUPPORT: NotSupportedError,
    INVALID_ARG: InvalidArgumentError,
    27: DomainXmlError,
    OPERATION_DENIED: ReadOnlyError,
    35: DomainXmlError,
    SYSTEM_ERROR: StorageError,
    NO_DOMAIN: NoDomainError,
    OPERATION_INVALID: WrongStateError,
    CONFIG_UNSUPPORTED: AbiError,
    OPERATION_TIMEOUT: DomainBusyError,
    28: TargetExistsError,
    74: NotSupportedError,
    OPERATION_ABORTED: CancelledError,
    OPERATION_UNSUPPORTED: NotSupportedError,
    87: DomainBusyError,
    88: PathNotAllowedError,
    92: DomainXmlError,
}


def failure(code: int, where: str, found: str) -> EngineError:
    """Return the error that the libvirt driver would have made of this number and text."""
    return ERRORS.get(code, HypervisorError)(where, found, libvirt_code=code)


def system_failure(where: str, found: str, error: OSError) -> EngineError:
    """Return libvirt's error for a system call that failed."""
    return failure(SYSTEM_ERROR, where, f"{found}: {os.strerror(error.errno or 0)}")


def check_flags(given: SaveFlags, known: SaveFlags, where: str) -> None:
    """Refuse flags that libvirt does not know here, or that exclude each other.

    Raises:
        InvalidArgumentError: there are such.
    """
    if unknown := int(given) & ~int(known):
        raise failure(INVALID_ARG, where, f"unsupported flags ({unknown:#x})")
    if SaveFlags.RUNNING in given and SaveFlags.PAUSED in given:
        found = "Flags 'VIR_DOMAIN_SAVE_RUNNING' and 'VIR_DOMAIN_SAVE_PAUSED' are mutually exclusive"
        raise failure(INVALID_ARG, where, found)
