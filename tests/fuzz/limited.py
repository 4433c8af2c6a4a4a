"""Run targets on inputs with no more memory to be had than they may take: `limited.py TARGET FILE...`.

The target "file" looks at each file as `fleetsave image info` does; "dxml" gives each to
`fleetsave dxml check`, on either side, which has to refuse it with exit code 10. Unlike tracemalloc this also
counts what C libraries allocate: first by a limit on the address space, then by the most
memory that was resident (a library may answer the limit with an error like any other).
Exit status 0: every input was taken or refused within the limit.
"""

from __future__ import annotations

import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from cli.main import main as main_of_cli
from engine.errors import DomainXmlError, EngineError
from engine.examine import image_info
from engine.units import KiB
from tests.fuzz.targets import ALLOCATION_MAX, TARGETS

_SAVED: Final = str(Path(__file__).parents[1] / "data" / "domains" / "plain.xml")
_BAD_XML: Final = DomainXmlError.exit_code


def main() -> None:
    """Take the inputs one after the other."""
    name, *files = sys.argv[1:]
    # Whatever is loaded late is loaded now.
    for target in TARGETS.values():
        target.run(target.seeds[0])
    assert _exit_code("dxml", "check", _SAVED, _SAVED) == 0
    # Those of dxml are read by the command, as far as it wants.
    inputs = [(file, b"" if name == "dxml" else Path(file).read_bytes()) for file in files]
    used = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + ALLOCATION_MAX, resource.RLIM_INFINITY))
    for file, data in inputs:
        _take(name, file, data)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for file, data in inputs:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmHWM")
        _take(name, file, data)
        taken = _status("VmHWM") - before
        assert taken <= ALLOCATION_MAX, f"{file}: {taken} bytes"


def _take(name: str, file: str, data: bytes) -> None:
    if name == "file":
        with suppress(EngineError):
            image_info(file)
    elif name == "dxml":
        for words in ((_SAVED, file), (file, _SAVED)):
            assert _exit_code("dxml", "check", *words) == _BAD_XML, file
    else:
        TARGETS[name].run(data)


def _exit_code(*words: str) -> object:
    try:
        main_of_cli(list(words))
    except SystemExit as ended:
        return ended.code
    raise AssertionError(words)


def _status(field: str) -> int:
    """Return a field of this process's status, bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, field
    return int(found.group(1)) * KiB


if __name__ == "__main__":
    main()
