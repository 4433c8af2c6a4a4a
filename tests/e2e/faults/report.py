"""Keep the committed report of the fault matrix: docs/fault-matrix.md, some blocks of which are generated."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.e2e.faults.faults import FAULTS, ROWS
from tests.e2e.faults.scene import MID_STREAM, ROOT

REPORT: Final = ROOT / "docs" / "fault-matrix.md"
#: Where a fault cannot strike.
NOTHING: Final = "n/a"

#: What became of one cell, in the report's words, by row and fault.
Table = dict[tuple[str, str], str]


def format_table(op: str, table: Table) -> str:
    """Return one operation's table: a line for each step, a column for each fault."""
    faults = [fault.name for fault in FAULTS if op in fault.ops]
    lines = [f"| step | {' | '.join(faults)} |", "|---" * (len(faults) + 1) + "|"]
    for row in ROWS[op]:
        name = "*in mid-stream*" if row == MID_STREAM else f"`{row}`"
        cells = [table.get((row, fault), NOTHING) for fault in faults]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_legend() -> str:
    """Return what the columns mean."""
    lines = ["| fault | what happens at the step |", "|---|---|"]
    lines += [f"| {fault.name} | {fault.meaning} |" for fault in FAULTS]
    return "\n".join(lines)


def parse_table(op: str, text: str) -> Table:
    """Return the table that the report holds for one operation; empty where it has none."""
    lines = [line for line in _block(op, text).splitlines() if line.startswith("|")]
    if not lines:
        return {}
    _, *faults = _split(lines[0])
    table: Table = {}
    for line in lines[2:]:
        name, *cells = _split(line)
        row = MID_STREAM if name.startswith("*") else name.strip("`")
        table |= {(row, fault): cell for fault, cell in zip(faults, cells, strict=True)}
    return table


def replace_blocks(blocks: Iterable[tuple[str, str]], report: Path = REPORT) -> None:
    """Write generated blocks of the report anew, and leave the rest of it alone.

    Args:
        blocks: name and text of each.
        report: the file.
    """
    text = report.read_text()
    for name, block in blocks:
        text = _pattern(name).sub(lambda match, block=block: f"{match[1]}{block}\n{match[3]}", text)  # type: ignore[misc]
    report.write_text(text)


def _block(name: str, text: str) -> str:
    found = _pattern(name).search(text)
    return found[2] if found else ""


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
