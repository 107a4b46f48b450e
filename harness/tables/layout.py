"""The texts of a table in every format for people: headings, cells and notes. Nothing is escaped here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness import progress
from harness.statistics.intervals import Interval
from harness.statistics.ranking import SIGNIFICANT
from harness.tables.notes import number_range
from harness.tables.reported import Reported
from harness.tables.schema import Cell, Column, Row, RunCost, Table

NONE = "–"
SPENDING = ("budget spent", "trained tokens", "generated tokens", "updates", "time")
DIFFERENCES = "Paired differences on the same questions, with p / p after Holm's correction:"
REPORTED = (
    "Rows marked reported are published numbers of other models, judges and budgets: not measured here, not ranked, "
    "not compared."
)


@dataclass(frozen=True)
class Entry:
    """The text of a cell.

    strong: how many characters at its beginning are bold.
    """

    text: str
    strong: int = 0


@dataclass(frozen=True)
class TextGrid:
    """Headings, and one row of entries per method that starts with its name."""

    head: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Sheet:
    """All texts of a table.

    differences: None where nothing is compared with the baseline.
    """

    title: str
    scores: TextGrid
    differences: TextGrid | None
    notes: tuple[str, ...]
    command: str | None


def sheet(table: Table) -> Sheet:
    columns = _score_columns(table)
    with_tuning = any(row.tuning for row in table.rows)
    scores = [_scores(row, columns, with_tuning) for row in table.rows]
    scores += filter(None, (_reported(row, columns, with_tuning) for row in table.reported))
    head = ("method", "supervision", *(title for _, title, _ in columns), *["options"] * with_tuning, *SPENDING)
    notes = (*table.notes, *[REPORTED] * bool(table.reported))
    return Sheet(table.title, TextGrid(head, tuple(scores)), _differences(table), notes, table.command)


def _score_columns(table: Table) -> list[tuple[Column, str, bool]]:
    """(benchmark, heading, whether it is the length-controlled win rate) of each column."""
    columns = []
    for column in table.benchmarks:
        columns.append((column, heading(column), False))
        if any(row.cells[column.name].length_controlled for row in table.rows) or any(
            controlled(column.name) in row.scores for row in table.reported
        ):
            columns.append((column, f"{column.title}, length-controlled win rate %", True))
    return columns


def heading(column: Column) -> str:
    return f"{column.title}, {column.metric}"


def controlled(benchmark: str) -> str:
    """The name of a benchmark's length-controlled win rate, among published numbers and in CSV."""
    return f"{benchmark}-lc"


def digits_of(metric: str) -> int:
    """Decimals of a score: one for percentages, two otherwise."""
    return 1 if "%" in metric else 2


def name(row: Row) -> str:
    """The name of a method, with † where it was trained but is not ranked."""
    return f"{row.method} †" if row.spent.flops and not row.ranked else row.method


def _scores(row: Row, columns: Sequence[tuple[Column, str, bool]], with_tuning: bool) -> tuple[Entry, ...]:
    shown = [Entry(name(row)), Entry(row.supervision)]
    for column, _, is_controlled in columns:
        cell = row.cells[column.name]
        shown.append(Entry(estimate(cell.length_controlled, 1)) if is_controlled else score(cell, column))
    if with_tuning:
        shown.append(Entry(tuned(row)))
    return (*shown, *map(Entry, spending(row.spent)))


def _reported(
    row: Reported, columns: Sequence[tuple[Column, str, bool]], with_tuning: bool
) -> tuple[Entry, ...] | None:
    """A published row; None where it has no score on these benchmarks."""
    scores = [
        row.scores.get(controlled(column.name) if is_controlled else column.name)
        for column, _, is_controlled in columns
    ]
    if set(scores) == {None}:
        return None
    texts = [NONE if value is None else str(value) for value in scores]
    first = (f"{row.method} ({row.model}, reported)", f"{row.base_loss}; {row.source}")
    return tuple(map(Entry, (*first, *texts, *[NONE] * (with_tuning + len(SPENDING)))))


def _differences(table: Table) -> TextGrid | None:
    baseline, *others = table.rows
    if not others:
        return None
    head = (f"minus {name(baseline)}", *map(heading, table.benchmarks))
    rows = [
        tuple(map(Entry, (name(row), *(difference(row.cells[each.name], each) for each in table.benchmarks))))
        for row in others
    ]
    return TextGrid(head, tuple(rows))


def score(cell: Cell, column: Column) -> Entry:
    """Value, interval, the mark of a significant difference, and rank; the value of the best method is bold."""
    if math.isnan(cell.value):
        return Entry(NONE)
    text = estimate(cell, digits_of(column.metric))
    if cell.p_holm is not None and cell.p_holm < SIGNIFICANT:
        text += " *"
    if cell.rank is not None:
        text += f" #{cell.rank}"
    return Entry(text, text.index(" ") if cell.best else 0)


def estimate(found: Cell | Interval | None, decimals: int) -> str:
    if found is None:
        return NONE
    interval = "" if math.isnan(found.low) else f" [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"
    return f"{found.value:.{decimals}f}{interval}"


def difference(cell: Cell, column: Column) -> str:
    found, decimals = cell.difference, digits_of(column.metric)
    if found is None:
        return NONE
    interval = ""
    if not math.isnan(found.low):
        interval = f" [{found.low:+.{decimals}f}, {found.high:+.{decimals}f}]"
    return f"{found.value:+.{decimals}f}{interval} p {p_value(found.p_value)} / {p_value(cell.p_holm)}"


def p_value(value: float | None) -> str:
    if value is None:
        return NONE
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def tuned(row: Row) -> str:
    if not row.spent.flops:
        return NONE
    return f"tuned, {row.tuning.trials} trials, {row.tuning.flops:.3g} FLOPs" if row.tuning else "default"


def spending(spent: RunCost) -> list[str]:
    if not spent.flops:
        return [NONE] * len(SPENDING)
    counts = (spent.trained_tokens, spent.generated_tokens, spent.updates)
    return [budget(spent), *map(count, counts), duration(spent.training_seconds)]


def budget(spent: RunCost) -> str:
    """The share of the cap, or the FLOPs where there was no cap."""
    if spent.share_min is None or spent.share_max is None:
        return f"{spent.flops:.3g} FLOPs"
    return f"{number_range([100 * spent.share_min, 100 * spent.share_max], '{:.1f}')} %"


def count(number: float) -> str:
    """A number of tokens in three digits.

    >>> count(161_700)
    '162k'
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    return NONE if math.isnan(seconds) else progress.duration(seconds)


def one_line(text: str) -> str:
    """The printable characters of a text on one line, without control characters and changes of direction."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
