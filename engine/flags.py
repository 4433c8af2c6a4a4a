"""Give libvirt's flags their libvirt values, and the bypass policies their names.

Source: libvirt include/libvirt/libvirt-domain.h, virDomainSaveRestoreFlags and virDomainCreateFlags.
"""

from __future__ import annotations

import enum


class SaveFlags(enum.IntFlag):
    """Flags of save, restore and managed save; RUNNING and PAUSED exclude each other."""

    NONE = 0
    #: Bypass the page cache or fail.
    BYPASS_CACHE = 1
    #: The guest runs after the restore, whatever it did at the save.
    RUNNING = 2
    #: The guest is paused after the restore, whatever it did at the save.
    PAUSED = 4
    #: Restore only: start with a fresh copy of the firmware's variables.
    RESET_NVRAM = 8


class StartFlags(enum.IntFlag):
    """Flags of start."""

    NONE = 0
    PAUSED = 1
    #: The domain is destroyed when the connection that started it closes.
    AUTODESTROY = 2
    #: Read the managed save image past the page cache or fail.
    BYPASS_CACHE = 4
    #: Throw the managed save image away and boot.
    FORCE_BOOT = 8


class DumpFlags(enum.IntFlag):
    """Flags of core_dump; CRASH, LIVE and RESET exclude each other."""

    NONE = 0
    #: The guest is left crashed.
    CRASH = 1
    #: The guest goes on running meanwhile; QEMU pauses it all the same.
    LIVE = 2
    #: Bypass the page cache or fail.
    BYPASS_CACHE = 4
    #: The guest is reset afterwards.
    RESET = 8
    #: Memory alone, in a format that crash tools read.
    MEMORY_ONLY = 16


class DumpFormat(enum.IntEnum):
    """Formats of a core dump; all but RAW need MEMORY_ONLY."""

    RAW = 0
    KDUMP_ZLIB = 1
    KDUMP_LZO = 2
    KDUMP_SNAPPY = 3
    WIN_DMP = 4


class BypassPolicy(enum.StrEnum):
    """What to do about the page cache."""

    #: Bypass it or fail before the guest is lost: libvirt's meaning, and the default.
    REQUIRE = "require"
    #: Bypass it where possible; a fall-back is counted with its reason.
    PREFER = "prefer"
    #: Go through it.
    OFF = "off"


class BypassFailure(enum.StrEnum):
    """Why the page cache was not bypassed; the values of a metric label."""

    UNSUPPORTED_FILESYSTEM = "unsupported_filesystem"
    MISALIGNED = "misaligned"
    FALLBACK_BUFFERED = "fallback_buffered"
    RESIDENT_PAGES = "resident_pages"
