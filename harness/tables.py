"""Shows a table to people (markdown) and to programs (JSON).

The JSON holds the fields of `harness.comparison.Table`: rows[i].method, .ranked, .spent.flops,
.cells[benchmark].value, .low, .high, .difference.p_value, .p_holm and so on. A number that does not exist is null.
"""

import math
import re
from dataclasses import asdict
from typing import Any

from harness.comparison import SIGNIFICANT, Cell, Spent, Table, number_range

NONE = "–"
_MARKUP = re.compile(r"\\|\||<(?=[A-Za-z/!?])|(?<=\])\(")
REPORTED = (
    "Rows marked reported are published numbers, of other models, judges and budgets: not measured here, not ranked, "
    "in no comparison."
)


def to_json(table: Table) -> dict:
    """Plain data for JSON, with the dataclasses' field names."""
    return _plain(asdict(table))


def to_markdown(table: Table) -> str:
    """The scores, the differences to the baseline and the notes."""
    titles = [f"{column.title}, {column.metric}" for column in table.benchmarks]
    spending = ["budget spent", "trained tokens", "generated tokens", "updates", "time"]
    scores = [["method", "supervision", *titles, *spending]]
    names = {row.method: f"{row.method} †" if row.spent.flops and not row.ranked else row.method for row in table.rows}
    differences = [[f"minus {names[table.baseline]}", *titles]]
    for row in table.rows:
        name = names[row.method]
        cells = [(row.cells[column.name], 1 if "%" in column.metric else 2) for column in table.benchmarks]
        scores.append([name, row.supervision, *(_score(*each) for each in cells), *_spending(row.spent)])
        if row.method != table.baseline:
            differences.append([name, *(_difference(*each) for each in cells)])
    for published in table.reported:
        cells = [_published(published.scores, column.name) for column in table.benchmarks]
        if set(cells) == {NONE}:
            continue
        name = f"{published.method} ({published.model}, reported)"
        scores.append([name, f"{published.base_loss}; {published.source}", *cells, *[NONE] * len(spending)])
    parts = [_lines(scores)]
    if len(differences) > 1:
        parts.append("Paired differences on the same questions, with p / p after Holm's correction:")
        parts.append(_lines(differences))
    notes = [*table.notes, *[REPORTED] * bool(table.reported)]
    parts.append("\n".join(f"- {_escape(note)}" for note in notes))
    return "\n\n".join([f"## {_escape(table.title)}"] * bool(table.title) + parts) + "\n"


def _published(scores: dict[str, float], benchmark: str) -> str:
    parts = [f"{scores[benchmark]}"] if benchmark in scores else []
    if f"{benchmark}-lc" in scores:
        parts.append(f"LC {scores[f'{benchmark}-lc']}")
    return ", ".join(parts) or NONE


def _score(cell: Cell, digits: int) -> str:
    if math.isnan(cell.value):
        return NONE
    interval = "" if math.isnan(cell.low) else f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    mark = " *" if cell.p_holm is not None and cell.p_holm < SIGNIFICANT else ""
    return f"{cell.value:.{digits}f}{interval}{mark}"


def _difference(cell: Cell, digits: int) -> str:
    difference = cell.difference
    if difference is None:
        return NONE
    interval = ""
    if not math.isnan(difference.low):
        interval = f" [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"
    return f"{difference.value:+.{digits}f}{interval} p {_p_value(difference.p_value)} / {_p_value(cell.p_holm)}"


def _p_value(p_value: float) -> str:
    return "< 0.0001" if p_value < 0.0001 else f"{p_value:.2g}" if p_value < 0.1 else f"{p_value:.2f}"


def _spending(spent: Spent) -> list[str]:
    if not spent.flops:
        return [NONE] * 5
    budget = f"{spent.flops:.3g} FLOPs"
    if spent.share_min is not None:
        budget = f"{number_range([100 * spent.share_min, 100 * spent.share_max], '{:.1f}')} %"
    counts = (spent.trained_tokens, spent.generated_tokens, spent.updates)
    return [budget, *map(_count, counts), _duration(spent.training_seconds)]


def _count(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return NONE
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _escape(text: str) -> str:
    """One line of what can be seen, without a mark that would end a table's cell, begin HTML or make a link."""
    text = "".join(mark if mark.isprintable() else " " for mark in text)
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def _lines(rows: list[list[str]]) -> str:
    """A markdown table, its columns aligned for reading as plain text."""
    rows = [[_escape(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = [" | ".join(map(str.ljust, row, widths)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
