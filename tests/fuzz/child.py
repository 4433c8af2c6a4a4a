"""Fuzz one target with atheris until its time is up: `child.py TARGET [libFuzzer's options and corpora]`."""

from __future__ import annotations

import os
import sys

# The pure parsers are followed branch by branch; what is imported here is instrumented.
import atheris

with atheris.instrument_imports(
    include=["engine.image", "engine.store.record", "engine.request", "engine.domxml", "json.decoder"]
):
    from tests.fuzz.targets import ALLOCATION_MAX, TARGETS, peak_allocation

#: One input of so many is measured; and each that is large, where it could matter.
_MEASURED_EVERY = 512
_LARGE = 64 * 1024


def main() -> None:
    """Run libFuzzer, which ends the process by itself."""
    name, *options = sys.argv[1:]
    run = TARGETS[name].run
    count = 0

    def once(data: bytes) -> None:
        nonlocal count
        count += 1
        if count % _MEASURED_EVERY and len(data) < _LARGE:
            run(data)
            return
        peak = peak_allocation(run, data)
        assert peak <= ALLOCATION_MAX, f"{peak} bytes for an input of {len(data)}"

    # Its first argument is the program that libFuzzer names in its messages.
    atheris.Setup([os.fspath(sys.argv[0]), *options], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
