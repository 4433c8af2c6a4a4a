"""Strike real guests at every step with every fault: what becomes of them is what docs/fault-matrix.md says.

A part of the cells by default; all of them with FULL=1. FAULT_MATRIX=write writes the report anew.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.faults.faults import Cell, list_cells
from tests.e2e.faults.outcome import BACK_SECONDS, judge
from tests.e2e.faults.report import (
    REPORT,
    Table,
    format_legend,
    format_table,
    parse_table,
    replace_blocks,
)
from tests.e2e.faults.scene import Scene

_IS_FULL = os.environ.get("FULL") == "1"
_IS_WRITING = os.environ.get("FAULT_MATRIX") == "write"
_OPS = ("save", "checkpoint", "restore")
_CELLS = [cell for op in _OPS for cell in list_cells(op) if _IS_FULL or cell.in_short_form]
#: One cell for each fault of a save: after it the older image is not only compared, but restored.
_RESTORING_OLD = {cell.fault.name: cell for cell in reversed(_CELLS) if cell.op == "save"}


@dataclass
class Seen:
    """What became of the cells of this run."""

    tables: dict[str, Table]
    #: From a fault until the guest was what it was, the most of all cells, seconds.
    slowest: float = 0.0

    def write(self) -> None:
        """Write the report anew."""
        cells = sum(map(len, self.tables.values()))
        figure = (
            f"{cells} cells; from a fault until the guest was what it was at most {self.slowest:.1f} s "
            f"(`make faults`, {os.cpu_count()} cores, emulated guests of 128 MiB)."
        )
        old = REPORT.read_text()
        # What this run did not look at stays.
        tables = [
            (op, format_table(op, parse_table(op, old) | table)) for op, table in self.tables.items() if table
        ]
        replace_blocks([("faults", format_legend()), *tables, ("cells", figure)])


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Collect what became of every cell; write it down at the end where the run is for that."""
    collected = Seen(tables={op: {} for op in _OPS})
    yield collected
    if _IS_WRITING:
        collected.write()


@pytest.mark.e2e
@pytest.mark.parametrize("cell", [pytest.param(cell, id=cell.name) for cell in _CELLS])
def test_fault_at_step(stage: Scene, seen: Seen, cell: Cell) -> None:
    """The guest is what it was or its image is there, whole; nothing half is visible, nothing is left."""
    stage.set_up(cell.op, cell.row)
    old = stage.good_checksum()

    outcome = judge(stage, cell, cell.fault.strike(stage))

    words = outcome.words(cell.op)
    seen.tables[cell.op][cell.row, cell.fault.name] = words
    seen.slowest = max(seen.slowest, outcome.seconds)
    assert outcome.seconds < BACK_SECONDS
    assert stage.good_checksum() == old, "the older image was touched"
    if _RESTORING_OLD.get(cell.fault.name) is cell:
        stage.restore(stage.good)
    elif outcome.is_published and outcome.state != "running":
        stage.restore(stage.image)
        stage.guest.wait_counter_beyond(stage.counter)
    if not _IS_WRITING:
        assert words == parse_table(cell.op, REPORT.read_text()).get((cell.row, cell.fault.name))
