"""Save and restore one domain on this host, past the page cache.

Knows no queue, no metrics library, no environment variable; usable alone:
``from engine import Engine``.
"""

from engine.api import Engine, recover
from engine.define import image_define
from engine.domains import list_domains
from engine.errors import EngineError
from engine.examine import image_dumpxml, image_info
from engine.flags import BypassPolicy, SaveFlags, StartFlags
from engine.hostcaps import host_capabilities
from engine.verify import image_verify

__all__ = [
    "BypassPolicy",
    "Engine",
    "EngineError",
    "SaveFlags",
    "StartFlags",
    "host_capabilities",
    "image_define",
    "image_dumpxml",
    "image_info",
    "image_verify",
    "list_domains",
    "recover",
]
