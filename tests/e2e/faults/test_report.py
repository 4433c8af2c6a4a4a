"""The report of the fault matrix speaks of every step and every fault, and the short form looks at each."""

import pytest

from tests.e2e.faults.faults import FAULTS, ROWS, list_cells
from tests.e2e.faults.report import NOTHING, REPORT, format_legend, format_table, parse_table


@pytest.mark.parametrize("op", ROWS)
def test_committed_table_lacks_nothing(op: str) -> None:
    """A step or a fault that is added needs its cells: `make faults` fills them in."""
    table = parse_table(op, REPORT.read_text())
    assert {key for key, words in table.items() if words != NOTHING} == {
        (cell.row, cell.fault.name) for cell in list_cells(op)
    }


def test_committed_legend_is_that_of_the_faults() -> None:
    """What a column means stands beside the tables."""
    assert format_legend() in REPORT.read_text()


@pytest.mark.parametrize("op", ROWS)
def test_short_form_has_every_step_and_every_fault(op: str) -> None:
    """What CI looks at leaves out no row and no column."""
    chosen = [cell for cell in list_cells(op) if cell.in_short_form]
    assert {cell.row for cell in chosen} == set(ROWS[op])
    assert {cell.fault.name for cell in chosen} == {fault.name for fault in FAULTS if op in fault.ops}


def test_parsed_table_is_what_was_formatted() -> None:
    """The report is read as it was written."""
    table = {(cell.row, cell.fault.name): f"{number}: runs" for number, cell in enumerate(list_cells("save"))}
    text = f"<!-- save -->\n{format_table('save', table)}\n<!-- end -->"
    read = parse_table("save", text)
    assert {key: words for key, words in read.items() if words != NOTHING} == table
