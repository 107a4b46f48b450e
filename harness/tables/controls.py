"""Warnings about controls: methods made to do worse than another one, which a trustworthy table puts below it."""

from collections.abc import Iterator, Sequence

from harness.statistics.ranking import SIGNIFICANT
from harness.tables.schema import Cell, Column, ResultRow, Table


def control_warnings(table: Table, stored: Sequence[ResultRow]) -> Iterator[str]:
    """A warning for each control that is not below the arms it controls, is significantly better than the baseline, or
    has the highest score.

    Args:
        stored: the results that the rows of the table were made from.
    """
    for row in stored:
        if row.control_of is None:
            continue
        controlled = [other.method for other in stored if other.trained_as == row.control_of]
        found: dict[str, list[str]] = {}
        for column in table.benchmarks:
            for said in _too_good(table, column, row.method, controlled):
                found.setdefault(said, []).append(column.title)
        if found:
            listed = "; ".join(f"it {said} on {', '.join(titles)}" for said, titles in found.items())
            yield (
                f"Warning: {row.method} is a control ({row.supervision}) and should do badly, but {listed}. "
                "There, this table does not show that better labels make a better model."
            )


def _too_good(table: Table, column: Column, control: str, controlled: Sequence[str]) -> Iterator[str]:
    cells = {row.method: row.cells[column.name] for row in table.rows}
    own = cells.pop(control)
    for arm in controlled:
        if own.value >= cells[arm].value:  # not so where one is missing (NaN)
            yield f"is not below {arm}"
    if _better(own):
        yield f"is significantly better than {table.baseline}"
    if cells and all(own.value >= other.value for other in cells.values()):
        yield "has the highest score"


def _better(cell: Cell) -> bool:
    """Whether it is significantly better than the baseline."""
    significant = cell.p_holm is not None and cell.p_holm < SIGNIFICANT
    return significant and cell.difference is not None and cell.difference.value > 0
