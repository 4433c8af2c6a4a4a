"""Fuzz every parser for a given time; say how many inputs each one took, keep what broke one.

`run.py [--seconds N] [--folder DIR] [TARGET...]`: N seconds for all targets together. Inputs that
reach new code stay in DIR/TARGET/corpus for the next run; one that breaks a parser lies in
DIR/TARGET, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.fuzz.targets import ALLOCATION_MAX, INPUT_SIZE_MAX, TARGETS  # noqa: E402 - found through the line above

#: Seconds that one input may take.
_INPUT_SECONDS: Final = 10
#: MiB of the whole process: interpreter, fuzzer, corpus, and what one input may take.
_PROCESS_MIB: Final = 512
#: Seconds that a child may need to start and to end.
_GRACE_SECONDS: Final = 120


def fuzz(name: str, seconds: int, folder: Path) -> int:
    """Fuzz one target; return how many inputs it took.

    Raises:
        RuntimeError: an input broke it; where that lies, and what the fuzzer said.
    """
    corpus = folder / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    words = folder / name / "words"
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
    command = [
        sys.executable,
        str(Path(__file__).with_name("child.py")),
        name,
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_SIZE_MAX}",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_PROCESS_MIB}",
        f"-dict={words}",
        f"-artifact_prefix={folder / name}/",
        "-print_final_stats=1",
        str(corpus),
    ]
    # The kernel counts the largest size of whoever forks as the new program's own; libFuzzer would take a
    # large test process for its own appetite. A small shell forks once more.
    done = subprocess.run(
        ["sh", "-c", '"$@"; exit $?', "sh", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + _GRACE_SECONDS,
        check=False,
    )
    count = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
    if done.returncode != 0 or count is None:
        raise RuntimeError(f"{name}: broken, see {folder / name}\n{done.stdout[-4000:]}")
    return int(count.group(1))


def _quoted(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"')


def main() -> int:
    """Fuzz what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="for all targets together")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "fuzz")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    share = max(1, options.seconds // len(names))
    broken = False
    for name in names:
        began = time.monotonic()
        try:
            count = fuzz(name, share, options.folder)
        except RuntimeError as error:
            _say(str(error))
            broken = True
            continue
        seconds = time.monotonic() - began
        _say(f"{name:12} {count:9} inputs in {seconds:5.0f} s, none broke it")
    _say(f"limits: inputs of {INPUT_SIZE_MAX} bytes, {ALLOCATION_MAX} bytes allocated for one")
    return 1 if broken else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
