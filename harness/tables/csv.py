"""A table as CSV, one row per method and benchmark, for pandas and spreadsheets.

    pandas.read_csv("table.csv").pivot(index="method", columns="benchmark", values="value")

A length-controlled win rate is a separate benchmark, NAME-lc. A published row has its source and values only. What does
not exist is empty. A text that a spreadsheet would take for a formula gets a leading apostrophe.
"""

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from harness.tables.layout import controlled, one_line
from harness.tables.schema import Cell, Column, Row, Table

FORMULA = ("=", "+", "-", "@")
COLUMNS = (
    *("method", "run", "benchmark", "metric", "testbed", "judge", "value", "low", "high", "seeds"),
    *("questions", "asked"),
    *("missing", "unparsed", "ranked", "reason", "rank", "best", "baseline", "difference", "difference_low"),
    *("difference_high", "p_value", "p_holm", "supervision", "tuning_trials", "tuning_flops", "cap_flops", "share_min"),
    *("share_max", "ledger", "flops", "wasted_flops", "trained_tokens", "generated_tokens", "updates"),
    *("training_seconds", "scoring_seconds", "source"),
)


def to_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in _measured(table):
        writer.writerow({name: _plain(value) for name, value in row.items()})
    for row in _reported(table):
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return text.getvalue()


def _measured(table: Table) -> Iterator[dict[str, Any]]:
    for row in table.rows:
        of_method = {
            **{name: getattr(row, name) for name in ("method", "run", "supervision", "ranked", "reason")},
            "testbed": table.testbed,
            "baseline": table.baseline,
            "ledger": table.ledger,
            "tuning_trials": row.tuning and row.tuning.trials,
            "tuning_flops": row.tuning and row.tuning.flops,
            **vars(row.spent),
        }
        for column in table.benchmarks:
            yield {**of_method, **_cell(row, column)}
            if found := row.cells[column.name].length_controlled:
                named = {"benchmark": controlled(column.name), "metric": "length-controlled win rate %"}
                counted = {name: value for name, value in _cell(row, column).items() if name in COUNTED}
                yield {**of_method, **counted, **named, **vars(found)}


COUNTED = ("judge", "seeds", "questions", "asked", "missing", "unparsed")


def _cell(row: Row, column: Column) -> dict[str, Any]:
    cell: Cell = row.cells[column.name]
    names = ("value", "low", "high", "questions", "asked", "missing", "unparsed", "rank", "best", "p_holm")
    found = {name: getattr(cell, name) for name in names}
    found |= {"benchmark": column.name, "metric": column.metric, "judge": column.judge, "seeds": len(cell.by_seed)}
    if difference := cell.difference:
        found |= {"difference": difference.value, "p_value": difference.p_value}
        found |= {"difference_low": difference.low, "difference_high": difference.high}
    return found


def _reported(table: Table) -> Iterator[dict[str, Any]]:
    shown = {name for column in table.benchmarks for name in (column.name, controlled(column.name))}
    for row in table.reported:
        for benchmark, value in row.scores.items():
            if benchmark in shown:
                method = f"{row.method} ({row.model}, reported)"
                source = f"{row.source}, base loss {row.base_loss}"
                yield {"method": method, "benchmark": benchmark, "value": value, "source": source}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        text = one_line(value)
        return f"'{text}" if text.startswith(FORMULA) else text
    return None if isinstance(value, float) and not math.isfinite(value) else value
