"""Methods beside each other: scores with intervals, differences to a baseline, and what every run spent.

All of it is computed from stored scores and ledgers alone. The dataclasses here are also the JSON of a table, field by
field (see `harness.tables`): outside checks read it, so the names stay.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.benchmarks.base import Score
from harness.errors import UserError, unknown_name
from harness.reported import Reported
from harness.statistics import Difference, Grid, bootstrap_interval, grid, holm, mean, paired_difference

SIGNIFICANT = 0.05
LEAST_SHARE = 0.95  # of the cap: who spends less is not compared at an identical budget


@dataclass(frozen=True)
class ResultRow:
    """What is stored of a method: benchmark -> seed -> score, and seed -> ledger (`Ledger.as_dict`) and wall seconds
    ({"training": data generation included, "scoring": ...})."""

    method: str
    supervision: str
    scores: dict[str, dict[int, Score]]
    ledgers: dict[int, dict]
    seconds: dict[int, dict[str, float]]


@dataclass(frozen=True)
class Column:
    """A benchmark of the table; judge is None where none is needed. setting: few-shot examples and chat, if it says."""

    name: str
    title: str
    metric: str
    judge: str | None
    setting: str | None = None


@dataclass(frozen=True)
class Cell:
    """A method on a benchmark.

    value, low, high: mean over seeds and questions with its 95 % interval; NaN where there is none.
    by_seed: the mean of each seed. questions: how many have a value in any seed. asked: the most that a seed was asked.
    missing, unparsed: summed over the seeds.
    difference: to the baseline, on the same questions and seeds; p_holm is its p-value adjusted for all of the table.
    """

    value: float
    low: float
    high: float
    by_seed: dict[int, float]
    questions: int
    asked: int
    missing: int
    unparsed: int
    difference: Difference | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Spent:
    """What a run of a method spent, mean over seeds; share_min and share_max of the cap are over the seeds."""

    cap_flops: float | None
    share_min: float | None
    share_max: float | None
    flops: float
    trained_tokens: float
    generated_tokens: float
    updates: float
    training_seconds: float
    scoring_seconds: float


@dataclass(frozen=True)
class Row:
    """A method. ranked: it was trained and spent 95-100 % of the same cap as the others; else reason says why not."""

    method: str
    supervision: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    spent: Spent
    ranked: bool
    reason: str | None


@dataclass(frozen=True)
class Table:
    """All rows, the baseline first.

    comparisons: how many p-values Holm's correction counts.
    reported: published rows to stand below; they take part in no comparison.
    """

    title: str
    baseline: str
    testbed: bool
    benchmarks: tuple[Column, ...]
    rows: tuple[Row, ...]
    comparisons: int
    notes: tuple[str, ...]
    reported: tuple[Reported, ...] = ()


def build(
    rows: Sequence[ResultRow],
    baseline: str = "base",
    *,
    title: str = "",
    testbed: bool = False,
    titles: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Table:
    """The table of these rows, the baseline first and the others in the given order.

    Args:
        testbed: the scores are of the embedded suites; every column says so.
        titles: benchmark -> title for people; the names stand where there is none.
        limit: the number of questions a benchmark was cut to, for the notes.

    Raises:
        UserError: when the baseline is not among the rows, or a benchmark has scores of different judges or metrics.
    """
    if baseline not in [row.method for row in rows]:
        raise unknown_name("baseline", baseline, [row.method for row in rows])
    rows = sorted(rows, key=lambda row: row.method != baseline)
    names = dict.fromkeys(name for row in rows for name, scores in row.scores.items() if scores)
    columns = [_column(name, rows, testbed, titles or {}) for name in names]
    cells: dict[str, dict[str, Cell]] = {row.method: {} for row in rows}
    for column in columns:
        base = _grid(rows[0], column.name)
        for row in rows:
            values = _grid(row, column.name)
            cell = _cell(row, column.name, values)
            if row is not rows[0]:
                cell = replace(cell, difference=paired_difference(values, base))
            cells[row.method][column.name] = cell
    comparisons = _adjust(cells)
    reasons = _reasons(rows)
    finished = tuple(
        Row(
            row.method,
            row.supervision,
            tuple(sorted(row.ledgers)),
            cells[row.method],
            _spent(row),
            reasons[row.method] is None,
            reasons[row.method],
        )
        for row in rows
    )
    notes = _notes(finished, columns, comparisons, testbed, limit) + _remarks(rows)
    return Table(title, baseline, testbed, tuple(columns), finished, comparisons, tuple(notes))


def _column(name: str, rows: Sequence[ResultRow], testbed: bool, titles: Mapping[str, str]) -> Column:
    scores = [(row.method, score) for row in rows for score in row.scores.get(name, {}).values()]
    for what in ("judge", "metric"):
        used: dict[Any, list[str]] = {}
        for method, score in scores:
            used.setdefault(getattr(score, what), []).append(method)
        if len(used) > 1:
            listed = "; ".join(f"{value}: {', '.join(dict.fromkeys(methods))}" for value, methods in used.items())
            raise UserError(f"{name}: scores of different {what}s never share a table ({listed}): score all with one")
    title = titles.get(name, name)
    first = scores[0][1]
    shots, chat = first.details.get("num_fewshot"), first.details.get("chat")
    setting = None if shots is None else f"{shots}-shot{' chat' if chat else ''}"
    return Column(name, f"testbed {title}" if testbed else title, first.metric, first.judge, setting)


def _grid(row: ResultRow, benchmark: str) -> Grid:
    scores = row.scores.get(benchmark, {})
    return grid({seed: s.values for seed, s in scores.items()}, {seed: s.weights for seed, s in scores.items()})


def _cell(row: ResultRow, column: str, values: Grid) -> Cell:
    scores = row.scores.get(column, {})
    by_seed = {}
    for i, seed in enumerate(values.seeds):
        by_seed[seed] = mean(values.values[[i]], values.weights[[i]])
        if not math.isclose(by_seed[seed], scores[seed].value, rel_tol=1e-6, abs_tol=1e-6):
            raise UserError(
                f"{column}, {row.method} seed {seed}: the score {scores[seed].value} is not the weighted mean "
                f"{by_seed[seed]} of its values"
            )
    shown = (float("nan"),) * 3
    if by_seed:
        interval = bootstrap_interval(values.values, values.weights)
        shown = (interval.value, interval.low, interval.high)
    return Cell(
        *shown,
        by_seed,
        len(values.questions),
        max((score.questions for score in scores.values()), default=0),
        sum(score.missing for score in scores.values()),
        sum(score.unparsed for score in scores.values()),
    )


def _adjust(cells: dict[str, dict[str, Cell]]) -> int:
    """Put the adjusted p-values of all comparisons in place, and say how many there are."""
    places = [(method, name) for method, row in cells.items() for name, cell in row.items() if cell.difference]
    adjusted = holm([cells[method][name].difference.p_value for method, name in places])
    for (method, name), p_value in zip(places, adjusted, strict=True):
        cells[method][name] = replace(cells[method][name], p_holm=p_value)
    return len(places)


def _flops(row: ResultRow) -> list[float]:
    return [ledger["total"]["flops"] for ledger in row.ledgers.values()]


def _reasons(rows: Sequence[ResultRow]) -> dict[str, str | None]:
    """Why a method is not ranked, or None where it is: the cap that most runs had is the one that counts."""
    caps = Counter(ledger["cap_flops"] for row in rows if any(_flops(row)) for ledger in row.ledgers.values())
    cap = caps.most_common(1)[0][0] if caps else None

    def reason(row: ResultRow) -> str | None:
        if not any(_flops(row)):
            return "not trained"
        if any(ledger["cap_flops"] is None for ledger in row.ledgers.values()):
            return f"no cap in FLOPs: spent {number_range(_flops(row), '{:.3g}')} FLOPs"
        own = [ledger["cap_flops"] for ledger in row.ledgers.values()]
        if set(own) != {cap}:
            return f"had a cap of {number_range(own, '{:.3g}')} FLOPs, others {cap:.3g}" if cap else "others had no cap"
        shares = [flops / cap for flops in _flops(row)]
        if min(shares) < LEAST_SHARE or max(shares) > 1:
            return f"spent {number_range([100 * share for share in shares], '{:.2f}')} % of the cap"
        return None

    return {row.method: reason(row) for row in rows}


def _spent(row: ResultRow) -> Spent:
    ledgers, seconds = list(row.ledgers.values()), list(row.seconds.values())
    shares = [ledger["total"]["flops"] / ledger["cap_flops"] for ledger in ledgers if ledger["cap_flops"]]
    caps = {ledger["cap_flops"] for ledger in ledgers}

    def average(values: list[float]) -> float:
        return sum(values) / len(values) if values else float("nan")

    return Spent(
        caps.pop() if len(caps) == 1 else None,
        min(shares, default=None),
        max(shares, default=None),
        *(
            average([ledger["total"][name] for ledger in ledgers])
            for name in ("flops", "trained_tokens", "generated_tokens", "updates")
        ),
        *(average([each[name] for each in seconds]) for name in ("training", "scoring")),
    )


def _notes(
    rows: Sequence[Row], columns: Sequence[Column], comparisons: int, testbed: bool, limit: int | None
) -> list[str]:
    notes = []
    if testbed:
        notes.append(
            "All scores are of the testbed: its own small model, questions and judge. They are not scores of the real "
            "benchmarks of these names."
        )
    if limit is not None:
        notes.append(f"Cut short: only the first {limit} questions of each benchmark were asked.")
    seeds = [len(row.seeds) for row in rows]
    notes.append(
        f"Seeds: {number_range(seeds, '{}')}. In brackets: 95 % interval, questions resampled"
        + (", the variance between seeds added." if max(seeds) > 1 else ".")
    )
    if any(len(row.seeds) == 1 and row.spent.flops for row in rows):
        notes.append(
            "One seed tells nothing of how another training run would turn out: its intervals and p-values are about "
            "other questions, for this very model."
        )
    if comparisons:
        number = "1 comparison" if comparisons == 1 else f"{comparisons} comparisons"
        sure = f"p < {SIGNIFICANT} after Holm's correction for {number}"
        notes.append(f"Marked *: differs from {rows[0].method}, {sure}.")
    caps = sorted({row.spent.cap_flops for row in rows if row.spent.cap_flops and row.spent.flops})
    if caps:
        notes.append(f"Budget: {number_range(caps, '{:.3g}')} FLOPs a run, data generation included, scoring apart.")
    notes.extend(f"† {row.method} is not ranked: {row.reason}." for row in rows if row.spent.flops and not row.ranked)
    return notes + [_count(column, rows) for column in columns]


def _count(column: Column, rows: Sequence[Row]) -> str:
    """What was asked and judged of a benchmark, and what is missing."""
    asked = [row.cells[column.name].asked for row in rows if row.cells[column.name].asked] or [0]
    parts = [f"{number_range(asked, '{}')} questions", f"judge {column.judge}" if column.judge else "no judge"]
    if column.setting:
        parts.insert(1, column.setting)
    for what in ("missing", "unparsed"):
        counts = {row.method: getattr(row.cells[column.name], what) for row in rows}
        listed = ", ".join(f"{method} {count}" for method, count in counts.items() if count)
        parts.append(f"{what}: {listed or 'none'}")
    return f"{column.title}: {'; '.join(parts)}."


def _remarks(rows: Sequence[ResultRow]) -> list[str]:
    """What a benchmark has to say about a score itself (details["note"]), once for each method."""
    said = {
        f"{name}, {row.method}: {score.details['note']}": None
        for row in rows
        for name, scores in row.scores.items()
        for score in scores.values()
        if "note" in score.details
    }
    return list(said) + _length_controlled(rows)


def _length_controlled(rows: Sequence[ResultRow]) -> list[str]:
    """AlpacaEval's length-controlled win rates, where scores have them: mean over seeds."""
    name = "length_controlled_win_rate"
    found = {}
    for row in rows:
        for benchmark, scores in row.scores.items():
            rates = [score.details[name] for score in scores.values() if score.details.get(name) is not None]
            if rates:
                found.setdefault(benchmark, []).append(f"{row.method} {sum(rates) / len(rates):.1f}")
    return [f"{benchmark}, length-controlled win rate %: {', '.join(rates)}." for benchmark, rates in found.items()]


def number_range(values: Sequence[float], form: str) -> str:
    """Smallest to largest as text, or one number where they look the same."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"
