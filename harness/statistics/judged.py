"""Intervals, differences to a baseline, corrected p-values and ranks of all methods on all benchmarks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from harness.statistics.grids import Grid
from harness.statistics.intervals import Difference, Interval, differences, holm, intervals
from harness.statistics.ranking import Ranking, rank


@dataclass(frozen=True)
class Judged:
    """The statistics of a table.

    intervals: benchmark -> method -> interval of the mean.
    differences: benchmark -> method -> difference to the baseline, which has none itself.
    p_holm: (benchmark, method) -> corrected p-value of the difference, where there are enough seeds.
    """

    intervals: dict[str, dict[str, Interval | None]]
    differences: dict[str, dict[str, Difference | None]]
    p_holm: dict[tuple[str, str], float]
    ranking: Ranking


def judge(
    grids: Mapping[str, Mapping[str, Grid]],
    baseline: str,
    ranked: Collection[str],
    limits: Mapping[str, tuple[float, float] | None],
) -> Judged:
    """Compute all intervals, differences to the baseline, corrected p-values and ranks of a table.

    Args:
        grids: benchmark -> method -> values.
        ranked: the methods that have ranks.
        limits: benchmark -> the lowest and the highest value of a question, if there are any.
    """
    means: dict[str, dict[str, Interval | None]] = {}
    apart: dict[str, dict[str, Difference | None]] = {}
    for name, by_method in grids.items():
        others = [method for method in by_method if method != baseline]
        means[name] = dict(zip(by_method, intervals(list(by_method.values()), limits.get(name)), strict=True))
        found = differences([(by_method[method], by_method[baseline]) for method in others])
        apart[name] = dict(zip(others, found, strict=True))
    p_values = {
        (name, method): difference.p_value
        for name, by_other in apart.items()
        for method, difference in by_other.items()
        if difference and difference.called
    }
    p_holm = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    compared = {
        name: {method: each for method, each in by_method.items() if method in ranked}
        for name, by_method in grids.items()
    }
    return Judged(means, apart, p_holm, rank(compared))
