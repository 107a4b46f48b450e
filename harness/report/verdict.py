"""The summary at the top of the page: who won, by how much, how certain that is and what it cost.

The table compares methods with the baseline. Which of them is best is another question, which the ranks answer: they
compare every pair of ranked methods on every benchmark (`harness.statistics.ranking`). The pairs here are the same.
"""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from math import isclose

from harness.report.run import ReportedRun
from harness.report.wording import listed, number, power, span
from harness.statistics.grids import LEAST_SEEDS
from harness.statistics.intervals import Difference, differences, holm
from harness.statistics.ranking import SIGNIFICANT
from harness.tables.build import grid_of
from harness.tables.controls import control_warnings
from harness.tables.layout import count, digits_of, duration
from harness.tables.schema import Cell, Column, Row, Table

TIE = 1e-9  # means that differ by less are equal
TOO_FEW = "Too few training runs to name a winner."
WHY_TOO_FEW = (
    f"With fewer than {LEAST_SEEDS} training runs per method no difference counts as significant, however large: "
    f"run-to-run variance is unknown (--seeds {LEAST_SEEDS} adds runs)."
)


@dataclass(frozen=True)
class ComparedPair:
    """The difference first - second on a benchmark.

    p_holm: corrected for all pairs of the page; None where there are too few seeds for a test.
    """

    benchmark: str
    first: str
    second: str
    difference: Difference
    p_holm: float | None

    @property
    def significant(self) -> bool:
        return self.p_holm is not None and self.p_holm < SIGNIFICANT

    def turned(self) -> "ComparedPair":
        """The difference second - first."""
        found = self.difference
        turned = replace(found, value=-found.value, low=-found.high, high=-found.low)
        return ComparedPair(self.benchmark, self.second, self.first, turned, self.p_holm)


@dataclass(frozen=True)
class Leader:
    """The method with the highest score on a benchmark.

    pairs: the leader compared with each other ranked method, the nearest first.
    """

    column: Column
    row: Row
    pairs: tuple[ComparedPair, ...]

    @property
    def cell(self) -> Cell:
        return self.row.cells[self.column.name]

    @property
    def digits(self) -> int:
        return digits_of(self.column.metric)

    @property
    def clear(self) -> bool:
        """Whether it is significantly ahead of every other ranked method."""
        return self.cell.best

    @property
    def can_be_called(self) -> bool:
        """Whether there are enough runs to test its lead."""
        return any(pair.p_holm is not None for pair in self.pairs)

    @property
    def methods(self) -> list[str]:
        """The leader, and ranked methods with the same score."""
        return [
            self.row.method,
            *(pair.second for pair in self.pairs if isclose(pair.difference.value, 0, abs_tol=TIE)),
        ]

    @property
    def undecided(self) -> list[str]:
        """Methods that the leader is not significantly ahead of."""
        return [pair.second for pair in self.pairs if not pair.significant]


@dataclass(frozen=True)
class Verdict:
    """The summary: a headline, sentences, and the leader of each benchmark."""

    headline: str
    sentences: tuple[str, ...]
    certainty: tuple[str, ...]
    cost: tuple[str, ...]
    leaders: tuple[Leader, ...]
    pairs: tuple[ComparedPair, ...]


def verdict(run: ReportedRun) -> Verdict:
    """Compute the summary of a run."""
    ranked = [row for row in run.table.rows if row.ranked]
    pairs = _pairs(run, [row.method for row in ranked])
    leaders = tuple(found for column in run.table.benchmarks if (found := _leader(column, ranked, pairs)))
    headline, sentences = _headline(run.table, ranked, leaders)
    sentences += control_warnings(run.table, run.stored.rows)
    return Verdict(headline, tuple(sentences), tuple(_certainty(run.table)), tuple(_cost(run)), leaders, pairs)


def _pairs(run: ReportedRun, methods: list[str]) -> tuple[ComparedPair, ...]:
    found = []
    for benchmark, by_method in run.scores.items():
        grids = {method: grid_of(scores) for method, scores in by_method.items() if method in methods}
        places = list(combinations(grids, 2))
        compared = differences([(grids[first], grids[second]) for first, second in places])
        found += [(benchmark, *place, each) for place, each in zip(places, compared, strict=True) if each]
    adjusted = iter(holm([difference.p_value for *_, difference in found if difference.called]))
    return tuple(ComparedPair(*each, next(adjusted) if each[-1].called else None) for each in found)


def _leader(column: Column, ranked: list[Row], pairs: tuple[ComparedPair, ...]) -> Leader | None:
    scored = [row for row in ranked if row.cells[column.name].by_seed]
    if not scored:
        return None
    best = max(scored, key=lambda row: row.cells[column.name].value)
    of_best = [
        pair if pair.first == best.method else pair.turned()
        for pair in pairs
        if pair.benchmark == column.name and best.method in (pair.first, pair.second)
    ]
    values = {row.method: row.cells[column.name].value for row in scored}
    return Leader(column, best, tuple(sorted(of_best, key=lambda pair: -values[pair.second])))


def _headline(table: Table, ranked: list[Row], leaders: tuple[Leader, ...]) -> tuple[str, list[str]]:
    if not leaders:
        trained = [row.method for row in table.rows if row.spent.flops]
        if not trained:
            return "No method was trained: these are the scores of the model as it is.", []
        return f"No winner: {listed(trained)} did not spend the same budget.", []
    against_baseline = _against_baseline(table, ranked)
    if not table.comparisons:
        return TOO_FEW, [f"{_highest(leaders)}. {WHY_TOO_FEW}"]
    if len(ranked) == 1:
        return against_baseline[0], against_baseline[1:]
    number_of_benchmarks = len(leaders)
    first, most = Counter(leader.row.method for leader in leaders).most_common(1)[0]
    clear = [leader for leader in leaders if leader.clear]
    if not clear:
        sure = "No lead over the next method is significant, so the data do not show which is best."
    elif len(clear) == number_of_benchmarks:
        sure = "Every lead over all other methods is significant."
    else:
        sure = (
            f"The lead over all other methods is significant on {listed([each.column.title for each in clear])}, "
            "and on no other."
        )
    winners = {leader.row.method for leader in clear}
    if most == number_of_benchmarks and len(clear) == number_of_benchmarks:
        headline = f"{first} wins."
    elif winners == {first} and 2 * most > number_of_benchmarks:
        headline = f"{first} is ahead, but not significantly everywhere."
    elif winners:
        headline = f"No method wins everywhere; clear leads: {listed(sorted(winners))}."
    else:
        headline = "No clear winner among the methods."
    return headline, [f"{_highest(leaders)}. {sure}", *against_baseline]


def _highest(leaders: tuple[Leader, ...]) -> str:
    (first, most), *others = Counter(tuple(sorted(leader.methods)) for leader in leaders).most_common()
    has = "has" if len(first) == 1 else "share"
    where = [f"{listed(list(first))} {has} the highest score on {_of(most, len(leaders))}"]
    return ", ".join([*where, *(f"{listed(list(names))} on {times}" for names, times in others)])


def _against_baseline(table: Table, ranked: list[Row]) -> list[str]:
    """On how many benchmarks each method is significantly better or worse than the baseline."""
    better: dict[int, list[str]] = {}
    worse = []
    for row in ranked:
        significant = [
            cell.difference.value
            for cell in row.cells.values()
            if cell.difference and cell.p_holm is not None and cell.p_holm < SIGNIFICANT
        ]
        better.setdefault(sum(value > 0 for value in significant), []).append(row.method)
        if times := sum(value < 0 for value in significant):
            worse.append(f"{row.method} on {times}")
    number_of_benchmarks = len(table.benchmarks)
    parts = [
        f"{listed(names)} on {_of(times, number_of_benchmarks)}"
        for times, names in sorted(better.items(), reverse=True)
        if times
    ]
    sentences = [f"Significantly better than {table.baseline}: {'; '.join(parts) or 'none'}."]
    if better.get(0):
        verb = "is" if len(better[0]) == 1 else "are"
        sentences.append(f"{listed(better[0])} {verb} not significantly better than {table.baseline} on any benchmark.")
    if worse:
        sentences.append(f"Significantly worse than {table.baseline}: {', '.join(worse)}.")
    return sentences


def _of(times: int, number_of_benchmarks: int) -> str:
    if number_of_benchmarks == 1:
        return "the one benchmark"
    return (
        f"all {number_of_benchmarks} benchmarks"
        if times == number_of_benchmarks
        else f"{times} of {number_of_benchmarks} benchmarks"
    )


def _certainty(table: Table) -> list[str]:
    seeds = sorted(len(row.seeds) for row in table.rows)
    asked = sorted(cell.asked for row in table.rows for cell in row.cells.values() if cell.asked)
    runs = f"{span([str(seeds[0]), str(seeds[-1])])} training run{'s' * (seeds[-1] > 1)} (seeds) per method"
    sentences = [f"{runs}, {span([str(asked[0]), str(asked[-1])])} questions per benchmark."] if asked else []
    sentences.append(
        "Numbers in brackets are 95 % intervals over questions"
        + (" and training runs." if seeds[-1] > 1 else ", for these models only.")
    )
    if seeds[0] < LEAST_SEEDS:
        sentences.append(
            f"With fewer than {LEAST_SEEDS} runs per method nothing can be tested: whether a method would win "
            "again with another run is unknown."
        )
    if table.comparisons:
        family = f"{table.comparisons} comparisons with {table.baseline}"
        between = f" (or {table.pairs} between methods)" if table.pairs else ""
        sentences.append(
            f"Differences are on the same questions. They are significant when p < {SIGNIFICANT} after Holm's "
            f"correction for {family}{between}; others may be real, but too small to be detected."
        )
    return sentences


def _cost(run: ReportedRun) -> list[str]:
    trained = [row for row in run.table.rows if row.spent.flops]
    if not trained:
        return ["Nothing was spent on training."]
    caps = sorted({row.spent.cap_flops for row in trained if row.spent.cap_flops})
    shares = [
        100 * share for row in trained for share in (row.spent.share_min, row.spent.share_max) if share is not None
    ]
    sentences = []
    if caps and shares:
        spent = f"{span([number(min(shares)), number(max(shares))])} %"
        sentences.append(
            f"Each training run may spend {span([power(cap) for cap in caps])} FLOPs, including the making of its "
            f"training data; the runs spent {spent} of that."
        )
    else:
        flops = sorted(row.spent.flops for row in trained)
        sentences.append(f"A training run spent {span([power(flops[0]), power(flops[-1])])} FLOPs.")
    seconds = sorted(row.spent.training_seconds for row in trained)
    total = sum(ledger.flops for by_seed in run.ledgers.values() for ledger in by_seed.values())
    runs = sum(len(row.seeds) for row in trained)
    sentences.append(
        f"{runs} training runs took {power(total)} FLOPs in all, {span([duration(seconds[0]), duration(seconds[-1])])} "
        "of wall time each; scoring comes on top and is not part of the budget."
    )
    if spending := run.judge_spending:
        sentences.append(f"The judge was called {count(spending['calls'])} times, for {spending['usd']:.2f} USD.")
    return sentences
