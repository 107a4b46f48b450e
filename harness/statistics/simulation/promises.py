"""How often a table is wrong about methods that are truly equal, and how often it finds a true difference.

The tables are judged by `harness.statistics.judged.judge`, the same function that judges tables of stored runs.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from math import sqrt
from multiprocessing import get_context
from typing import Any

import numpy as np

from harness.statistics.grids import Grid
from harness.statistics.intervals import Interval
from harness.statistics.judged import Judged, judge
from harness.statistics.ranking import SIGNIFICANT
from harness.statistics.simulation.scores import Scenario, tables

MOST_FALSE = 0.06  # tables with a false star, or a false rank
COVERAGE = (0.93, 0.97)
SHIFT = 1.0  # by how much one method is better; the standard deviation of difficulty is 1
ERRORS = 3.0  # standard errors that a measured share may be off by chance
SIZES = ((2, 1), (20, 7))  # methods, benchmarks, besides 6 and 4
SEEDS = (1, 2, 3, 5, 12)
FEW_AND_MANY = (3, 12)  # seeds of scenarios that change something else


@dataclass(frozen=True)
class ErrorRates:
    """Shares of tables and of intervals; None where there are none of the kind.

    false_stars, false_ranks: tables of equal methods with at least one.
    single: differences of equal methods with p below 0.05 before any correction.
    scores, differences: intervals that contain the truth, of means and of differences to the baseline.
    power: differences of SHIFT to the baseline that are marked after the correction.
    half_width: half the width of the interval of a difference, on average.
    """

    setting: Scenario
    tables: int
    false_stars: float | None
    false_ranks: float | None
    single: float
    scores: float
    differences: float
    power: float | None
    half_width: float

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ErrorRates":
        return cls(**data | {"setting": Scenario(**data["setting"])})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def settings(questions: int = 60) -> list[Scenario]:
    """All scenarios: every kind with every number of seeds, other sizes, and runs that vary not at all or much."""
    kinds = ("normal", "heavy-tailed", "binary", "ceiling", "tied", "missing", "clustered")
    found = [Scenario(kind, seeds, questions=questions) for kind in kinds for seeds in SEEDS]
    found += [Scenario("normal", seeds, *size, questions) for size in SIZES for seeds in FEW_AND_MANY]
    found += [Scenario("normal", seeds, questions=questions, seed_sd=sd) for sd in (0.0, 0.5) for seeds in FEW_AND_MANY]
    return found + [Scenario(kind, 3, questions=questions) for kind in ("one seed shared", "one beside five")]


def claimed(setting: Scenario) -> Scenario:
    """The scenario that results are about: with one seed they hold for the given models, whose runs do not vary."""
    return replace(setting, seed_sd=0.0) if setting.seeds == 1 else setting


def measure(setting: Scenario, number: int, seed: int = 0) -> ErrorRates:
    """Measure a scenario on this number of tables of equal methods, and a quarter as many with one better method."""
    setting = claimed(setting)
    rng = np.random.default_rng([seed, setting.seeds, setting.methods])
    counts = _Counts()
    for grids in tables(setting, number, rng):
        counts.add(setting, grids, judge(grids, "m0", set(grids["b0"]), dict.fromkeys(grids, setting.limits)))
    found = []
    for grids in tables(setting, max(1, number // 4), rng, SHIFT):
        judged = judge(grids, "m0", set(grids["b0"]), dict.fromkeys(grids, setting.limits))
        best = f"m{setting.methods - 1}"
        found += [p < SIGNIFICANT for (_, method), p in judged.p_holm.items() if method == best]
    return ErrorRates(
        setting,
        number,
        counts.stars / number if counts.called else None,
        counts.ranks / number if counts.ranked else None,
        counts.single / max(1, counts.differences),
        counts.scores_held / max(1, counts.scores),
        counts.differences_held / max(1, counts.differences),
        sum(found) / len(found) if found else None,
        counts.half_width / max(1, counts.differences),
    )


@dataclass
class _Counts:
    stars: int = 0
    ranks: int = 0
    single: int = 0
    called: int = 0
    ranked: int = 0
    scores: int = 0
    scores_held: int = 0
    differences: int = 0
    differences_held: int = 0
    half_width: float = 0.0

    def add(self, setting: Scenario, grids: Mapping[str, Mapping[str, Grid]], judged: Judged) -> None:
        """Count a table, without intervals of a single run among methods with several: they do not cover other runs."""
        truth = setting.truth()
        own = [
            each
            for benchmark, by_method in judged.intervals.items()
            for method, each in by_method.items()
            if setting.seeds == 1 or len(grids[benchmark][method].seeds) > 1
        ]
        apart = [each for by_method in judged.differences.values() for each in by_method.values() if each]
        self.scores += len(own)
        self.scores_held += sum(holds(each, truth) for each in own if each)
        self.differences += len(apart)
        self.differences_held += sum(each.low <= 0 <= each.high for each in apart)
        self.half_width += sum((each.high - each.low) / 2 for each in apart)
        self.single += sum(each.p_value < SIGNIFICANT for each in apart)
        self.called += len(judged.p_holm)
        self.stars += any(p < SIGNIFICANT for p in judged.p_holm.values())
        self.ranked += judged.ranking.pairs
        self.ranks += any(place.rank > 1 for own in judged.ranking.standings.values() for place in own.values())


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def run(number: int, jobs: int = 1, seed: int = 0, advance: Callable[[int], None] | None = None) -> list[ErrorRates]:
    """Measure all scenarios.

    Args:
        number: tables per scenario. jobs: processes.
    """
    wanted = settings()
    if jobs == 1:
        found = []
        for scenario in wanted:
            found.append(measure(scenario, number, seed))
            if advance:
                advance(1)
        return found
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(measure, scenario, number, seed) for scenario in wanted]
        for future in as_completed(futures):
            future.result()
            if advance:
                advance(1)
        return [future.result() for future in futures]


def broken(found: ErrorRates) -> list[str]:
    """Promises that are broken, beyond what chance explains in this number of tables.

    Two seeds and scores near a limit may be covered more often than promised. Intervals of one table depend on each
    other, so chance is computed from the numbers of tables and benchmarks.
    """
    broken_promises = []
    slack = ERRORS * sqrt(MOST_FALSE * (1 - MOST_FALSE) / found.tables)
    for what, share in (("stars", found.false_stars), ("ranks", found.false_ranks)):
        if share is not None and share > MOST_FALSE + slack:
            broken_promises.append(f"false {what} in {100 * share:.1f} % of the tables")
    slack = ERRORS * sqrt(COVERAGE[0] * (1 - COVERAGE[0]) / (found.tables * found.setting.benchmarks))
    cautious = found.setting.seeds == 2 or found.setting.kind == "ceiling"
    for what, share in (("scores", found.scores), ("differences", found.differences)):
        if share < COVERAGE[0] - slack or (share > COVERAGE[1] + slack and not cautious):
            broken_promises.append(f"intervals of {what} hold the truth in {100 * share:.1f} %")
    return broken_promises
