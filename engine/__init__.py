"""Save and restore one domain on this host, past the page cache.

Knows no queue, no metrics library, no environment variable; usable alone:
``from engine import Engine``.
"""

from engine.api import Engine, list_domains, recover
from engine.errors import EngineError
from engine.flags import BypassPolicy, SaveFlags, StartFlags

__all__ = ["BypassPolicy", "Engine", "EngineError", "SaveFlags", "StartFlags", "list_domains", "recover"]
