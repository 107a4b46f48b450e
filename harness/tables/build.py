"""Build a table: scores with intervals and ranks, differences to a baseline, and what every run spent.

Everything is computed from stored scores and ledgers alone.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from scipy.special import stdtrit

from harness.benchmarks.base import Score, limits_of
from harness.errors import UserError, unknown_name
from harness.statistics.estimates import LEVEL, Stack
from harness.statistics.grids import Grid, grid
from harness.statistics.intervals import Interval
from harness.statistics.judged import Judged, judge
from harness.statistics.power import ALPHA, detectable
from harness.statistics.ranking import SIGNIFICANT
from harness.tables.notes import notes_of, number_range
from harness.tables.schema import Cell, Column, ResultRow, Row, RunCost, Table
from harness.work import Rule

__all__ = ["SIGNIFICANT", "Cell", "Column", "Judged", "ResultRow", "Row", "RunCost", "Table", "build", "judge"]

LENGTH_CONTROLLED = "length_controlled_win_rate"  # in the details of a score
LEAST_SHARE = 0.95  # of the cap; a run that spends less does not have the same budget


def build(
    rows: Sequence[ResultRow],
    baseline: str = "base",
    *,
    title: str = "",
    testbed: bool = False,
    titles: Mapping[str, str] | None = None,
    limit: int | None = None,
    remarks: Sequence[str] = (),
    command: str | None = None,
) -> Table:
    """Build the table of these rows, the baseline first and the others in the given order.

    Args:
        testbed: whether the scores are of the embedded suites; every column then says so.
        titles: benchmark -> title for people; the name where there is none.
        limit: how many questions each benchmark was cut to, for the notes.
        remarks: further notes, put last.
        command: the command that made the scores; the table names it.

    Raises:
        UserError: when the baseline is not among the rows, or scores of different judges or metrics, or FLOPs of
            different rules, would share a table.
    """
    if baseline not in [row.method for row in rows]:
        raise unknown_name("baseline", baseline, [row.method for row in rows])
    rows = sorted(rows, key=lambda row: row.method != baseline)
    rule = _rule(rows)
    names = dict.fromkeys(name for row in rows for name, scores in row.scores.items() if scores)
    reasons = _reasons(rows)
    grids = {name: {row.method: grid_of(row.scores.get(name, {})) for row in rows} for name in names}
    columns = [_column(name, rows, grids[name], testbed, titles or {}) for name in names]
    limits = {column.name: limits_of(column.metric) for column in columns}
    judged = judge(grids, baseline, [method for method, reason in reasons.items() if reason is None], limits)
    cells = {row.method: {name: _cell(row, name, grids[name][row.method], judged) for name in names} for row in rows}
    finished = tuple(
        Row(
            method=row.method,
            supervision=row.supervision,
            seeds=tuple(sorted(row.ledgers)),
            cells=cells[row.method],
            spent=_spent(row),
            ranked=reasons[row.method] is None,
            reason=reasons[row.method],
            tuning=row.tuning,
            run=row.run,
        )
        for row in rows
    )
    table = Table(
        title,
        baseline,
        testbed,
        tuple(columns),
        finished,
        comparisons=len(judged.p_holm),
        notes=(),
        pairs=judged.ranking.pairs,
        command=command,
        detectable=_detectable(judged),
        ledger=rule,
    )
    return replace(table, notes=(*notes_of(table, rows, limit), *remarks))


def _detectable(judged: Judged) -> dict[str, tuple[float, float]]:
    """Compute `Table.detectable`; where fewer than two methods are ranked, for a method and the baseline."""
    found: dict[str, tuple[float, float]] = {}
    for name, differences in judged.differences.items():
        (error, freedom), tests = judged.ranking.errors.get(name, (math.nan, math.nan)), judged.ranking.pairs
        called = [each for each in differences.values() if each and each.called]
        if math.isnan(error) and called:
            error, freedom = median(each.error for each in called), median(each.freedom for each in called)
            tests = len(judged.p_holm)
        if not math.isnan(error):
            found[name] = detectable(error, freedom, ALPHA), detectable(error, freedom, ALPHA / tests)
    return found


def _column(
    name: str, rows: Sequence[ResultRow], grids: Mapping[str, Grid], testbed: bool, titles: Mapping[str, str]
) -> Column:
    scores = [(row.method, score) for row in rows for score in row.scores.get(name, {}).values()]
    for what in ("judge", "metric"):
        used: dict[Any, list[str]] = {}
        for method, score in scores:
            used.setdefault(getattr(score, what), []).append(method)
        if len(used) > 1:
            listed = "; ".join(f"{value}: {', '.join(dict.fromkeys(methods))}" for value, methods in used.items())
            raise UserError(
                f"{name}: scores of different {what}s cannot share a table ({listed}): score all with the same one"
            )
    title = titles.get(name, name)
    first = scores[0][1]
    shots, chat = first.details.get("num_fewshot"), first.details.get("chat")
    setting = None if shots is None else f"{shots}-shot{' chat' if chat else ''}"
    known = all(score.clusters is not None for _, score in scores)
    independent = {each for grid in grids.values() for each in grid.clusters or grid.questions}
    shown = f"testbed {title}" if testbed else title
    return Column(name, shown, first.metric, first.judge, setting, len(independent) if known else None)


def grid_of(scores: Mapping[int, Score]) -> Grid:
    """The values of a method on a benchmark.

    Args:
        scores: seed -> score.
    """
    values = {seed: score.values for seed, score in scores.items()}
    clusters = {question: name for score in scores.values() for question, name in (score.clusters or {}).items()}
    return grid(values, {seed: score.weights for seed, score in scores.items()}, clusters)


def _cell(row: ResultRow, column: str, values: Grid, judged: Judged) -> Cell:
    scores = row.scores.get(column, {})
    by_seed = {}
    if values.seeds:
        means = Stack.of([values]).means[0]
        by_seed = dict(zip(values.seeds, means.tolist(), strict=True))
    for seed, mean in by_seed.items():
        if not math.isclose(mean, scores[seed].value, rel_tol=1e-6, abs_tol=1e-6):
            raise UserError(
                f"{column}, {row.method} seed {seed}: the score {scores[seed].value} is not the weighted mean "
                f"{mean} of its values"
            )
    interval = judged.intervals[column][row.method]
    value, low, high = (interval.value, interval.low, interval.high) if interval else (math.nan,) * 3
    standings = judged.ranking.standings.get(column, {})
    standing = standings.get(row.method) if len(standings) > 1 else None
    return Cell(
        value=value,
        low=low,
        high=high,
        by_seed=by_seed,
        questions=len(values.questions),
        asked=max((score.questions for score in scores.values()), default=0),
        missing=sum(score.missing for score in scores.values()),
        unparsed=sum(score.unparsed for score in scores.values()),
        difference=judged.differences[column].get(row.method),
        p_holm=judged.p_holm.get((column, row.method)),
        rank=standing.rank if standing else None,
        best=standing is not None and standing.best,
        length_controlled=_length_controlled(scores),
    )


def _length_controlled(scores: Mapping[int, Score]) -> Interval | None:
    """The mean over seeds of length-controlled win rates, with an interval.

    Each seed has a bootstrap interval over the questions, for its own model. The half-widths of these, averaged (the
    seeds answered the same questions, so their mean is hardly more certain than one), are joined with the half-width
    of Student's t interval for the mean of the seeds: sqrt(questions^2 + runs^2), on each side. Both contain the noise
    of questions that the seeds do not share, so the interval is rather too wide. It is NaN where a seed has none.
    """
    details = [score.details for score in scores.values() if score.details.get(LENGTH_CONTROLLED) is not None]
    if not details:
        return None
    rates = [each[LENGTH_CONTROLLED] for each in details]
    known = [interval for each in details if (interval := each.get("length_controlled_interval"))]
    value = sum(rates) / len(rates)
    if len(known) < len(rates):
        return Interval(value, math.nan, math.nan)
    runs = 0.0
    if len(rates) > 1:
        runs = stdtrit(len(rates) - 1, (1 + LEVEL) / 2) * np.std(rates, ddof=1) / math.sqrt(len(rates))
    below, above = (
        math.hypot(sum(abs(rate - each[end]) for rate, each in zip(rates, known, strict=True)) / len(rates), runs)
        for end in (0, 1)
    )
    return Interval(value, value - below, value + above)


def _rule(rows: Sequence[ResultRow]) -> Rule | None:
    """The rule by which the FLOPs of trained rows were counted; None where no row was trained.

    Raises:
        UserError: when there are two rules.
    """
    methods: dict[Rule, list[str]] = {}
    for row in rows:
        for rule in {ledger.rule for ledger, flops in zip(row.ledgers.values(), _flops(row), strict=True) if flops}:
            methods.setdefault(rule, []).append(row.method)
    if len(methods) > 1:
        listed = "; ".join(f"{rule}: {', '.join(names)}" for rule, names in methods.items())
        raise UserError(
            f"FLOPs that were counted by different rules cannot share a table ({listed}): run all with one --ledger"
        )
    return next(iter(methods), None)


def _flops(row: ResultRow) -> list[float]:
    """The FLOPs of each seed."""
    return [spent.flops for spent in row.totals]


def _reasons(rows: Sequence[ResultRow]) -> dict[str, str | None]:
    """Method -> why it is not ranked, None where it is. The cap that most runs had is the one that counts."""
    caps = Counter(ledger.cap for row in rows if any(_flops(row)) for ledger in row.ledgers.values())
    cap = caps.most_common(1)[0][0] if caps else None

    def reason(row: ResultRow) -> str | None:
        if not any(_flops(row)):
            return "not trained"
        own_caps = [ledger.cap for ledger in row.ledgers.values() if ledger.cap is not None]
        if len(own_caps) < len(row.ledgers):
            return f"no cap in FLOPs: spent {number_range(_flops(row), '{:.3g}')} FLOPs"
        if cap is None:
            return "others had no cap"
        if set(own_caps) != {cap}:
            return f"had a cap of {number_range(own_caps, '{:.3g}')} FLOPs, others {cap:.3g}"
        shares = [flops / cap for flops in _flops(row)]
        if min(shares) < LEAST_SHARE or max(shares) > 1:
            return f"spent {number_range([100 * share for share in shares], '{:.2f}')} % of the cap"
        return None

    return {row.method: reason(row) for row in rows}


def _spent(row: ResultRow) -> RunCost:
    """The means over the seeds of a method."""
    caps = [ledger.cap for ledger in row.ledgers.values()]
    shares = [spent.flops / cap for spent, cap in zip(row.totals, caps, strict=True) if cap]
    seconds = list(row.seconds.values())

    def average(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else math.nan

    return RunCost(
        cap_flops=caps[0] if len(set(caps)) == 1 else None,
        share_min=min(shares, default=None),
        share_max=max(shares, default=None),
        flops=average([spent.flops for spent in row.totals]),
        trained_tokens=average([spent.trained_tokens for spent in row.totals]),
        generated_tokens=average([spent.generated_tokens for spent in row.totals]),
        updates=average([spent.updates for spent in row.totals]),
        training_seconds=average([each["training"] for each in seconds]),
        scoring_seconds=average([each["scoring"] for each in seconds]),
        wasted_flops=average([spent.wasted_flops for spent in row.totals]),
    )
